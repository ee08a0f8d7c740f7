"""Whether an Envoy takes connections as it was told to: it has its configuration, not only the time to wait for it behind it."""

import asyncio
from pathlib import Path
from typing import Final

import aiohttp

PATH: Final = "/healthz/ready"
"""As Istio's proxies have it."""
_STATE, _CONFIGURED = "server.state", "listener_manager.lds.update_success"
_ENVOY_S: Final = 2.0


async def is_ready(admin: Path) -> bool:
    """Asks Envoy at its own socket; one that does not answer is not ready."""
    connector = aiohttp.UnixConnector(path=str(admin))
    try:
        async with (
            asyncio.timeout(_ENVOY_S),
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://envoy/stats", params={"filter": f"^({_STATE}|{_CONFIGURED})$"}) as response,
        ):
            return said_ready(await response.text())
    except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError):
        return False


def said_ready(stats: str) -> bool:
    """Initialised (state 0), and told of listeners: without an answer Envoy gives up waiting for them, and calls itself initialised."""
    found = dict(line.split(": ", 1) for line in stats.splitlines() if ": " in line)
    return found.get(_STATE) == "0" and found.get(_CONFIGURED, "0") != "0"
