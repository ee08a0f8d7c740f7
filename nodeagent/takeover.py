"""Taking the place of an agent that runs with the same run directory: it is asked to yield, and the new one serves when it has."""

import asyncio
import logging
from pathlib import Path
from typing import Final

import aiohttp

from nodeagent.admin.server import SOCKET
from nodeagent.config import ConfigError
from nodeagent.ztunnel.transport import answers

log = logging.getLogger(__name__)

_ASK_S: Final = 5.0
_YIELD_S: Final = 15.0
_POLL_S: Final = 0.02


async def take_over(run_dir: Path, decisions: Path) -> None:
    """Returns when no other agent listens at `decisions`. Raises ConfigError if one does and does not yield in time."""
    if not answers(decisions):
        return
    try:
        pid = await _ask_to_yield(run_dir / SOCKET)
        async with asyncio.timeout(_YIELD_S):
            while answers(decisions):  # noqa: ASYNC110 - nothing tells when another process has closed its socket
                await asyncio.sleep(_POLL_S)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ConfigError(f"another agent runs with {run_dir} and does not yield: {error or 'no answer in time'}") from error
    log.info("agent %d has yielded", pid)


async def _ask_to_yield(admin: Path) -> int:
    timeout = aiohttp.ClientTimeout(total=_ASK_S)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(admin)), timeout=timeout, raise_for_status=True) as session,
        session.post("http://agent/yield") as response,
    ):
        pid: int = await response.json()
        return pid
