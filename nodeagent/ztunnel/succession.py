"""Puts a proxy of this agent's program in the place of one that runs another: started beside it, and in its place when it serves.

Meanwhile it holds a lock of its own, `ProxyPaths.next_lock`. The former one is told to finish by `Sessions`, as soon as the other serves.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from nodeagent.linux.process import Process
from nodeagent.ztunnel.proxy_process import ProxyPaths, holder

log = logging.getLogger(__name__)

_POLL_S: Final = 0.02
_DEADLINE_S: Final = 10.0
_NEXT_TRY_S: Final = 30.0


class Succession:
    """`serving`: the pid of the proxy that has been told everything. `worry` is called with what hinders, in words."""

    def __init__(self, paths: ProxyPaths, serving: Callable[[], int | None], worry: Callable[[str], None]) -> None:
        self._paths = paths
        self._serving = serving
        self._worry = worry

    async def of(self, former: Process) -> Process | None:
        """The proxy that serves in the place of `former`; None if that ended first. Tries until it is one of both."""
        ended = asyncio.ensure_future(former.wait())
        try:
            while not ended.done():
                try:
                    return await self._try(former)
                except OSError as error:
                    self._worry(f"it runs another program than this agent's, which can't take its place: {error}")
                    log.warning("proxy %d: not succeeded: %s; again in %g s", former.pid, error, _NEXT_TRY_S)
                await asyncio.wait([ended], timeout=_NEXT_TRY_S)
            return None
        finally:
            ended.cancel()

    async def _try(self, former: Process) -> Process:
        """Raises OSError (TimeoutError if a successor did not serve in time: then it is gone)."""
        begun = await asyncio.to_thread(holder, self._paths.next_lock)
        # Only one that has given its sockets back can be succeeded; a former agent may have come further.
        await self._until_serving(former.pid, begun or former.pid)
        if begun is not None and begun == self._serving():
            successor = Process(begun)
        else:
            if begun is not None:
                await _kill(Process(begun))
            successor = Process(await asyncio.to_thread(self._paths.start, self._paths.next_lock))
        try:
            await self._until_serving(successor.pid)
            os.replace(self._paths.next_lock, self._paths.lock)  # noqa: PTH105 - what is locked is the file, by whatever name
        except TimeoutError:
            await _kill(successor)
            raise
        except BaseException:  # it may serve by now, and the next agent takes it up
            successor.close()
            raise
        log.info("proxy %d: in the place of %d", successor.pid, former.pid)
        return successor

    async def _until_serving(self, *pids: int) -> None:
        """Raises TimeoutError if none of them comes to serve in time."""
        deadline_s = time.monotonic() + _DEADLINE_S
        while self._serving() not in pids:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"process {pids[0]} did not come to serve within {_DEADLINE_S:g} s")
            await asyncio.sleep(_POLL_S)


async def _kill(process: Process) -> None:
    with process:
        process.signal(signal.SIGKILL)
        await process.wait()
