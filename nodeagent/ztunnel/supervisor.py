"""Keeps one proxy process running: starts it, recognises one that outlived an agent, starts it again when it dies.

One that outlived an agent and is of another program than this agent's is succeeded (`succession`), and left to finish what it carries.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nodeagent.linux.errors import KernelError
from nodeagent.linux.process import Process
from nodeagent.ztunnel import proxy_log
from nodeagent.ztunnel.proxy_process import ProxyPaths, holder, runs
from nodeagent.ztunnel.succession import Succession

log = logging.getLogger(__name__)

BUNDLED: Final = Path(__file__).parent / "bin" / "nodemesh-proxy"
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 10.0
"""A proxy that ran this long was no failed start: the next one comes at once."""
_GRACE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ProxyState:
    """For status. `pid` None: none runs now, `problem` says why."""

    pid: int | None = None
    adopted: bool = False
    """It was started by a former agent."""
    since_s: float = 0.0
    """Unix time from which this agent knows it."""
    restarts: int = 0
    problem: str = ""


class ProxySupervisor:
    """See the module. The proxy lives on when this ends; only `stop` ends it."""

    def __init__(self, paths: ProxyPaths, serving: Callable[[], int | None], *, drain_s: float = 30.0, keep_found: bool = True) -> None:
        """`serving`: the pid of the proxy that has been told everything. `drain_s`: what one that is succeeded has been given.

        `keep_found`: one that runs already serves on if it is of the same program; otherwise it is always succeeded.
        """
        self._paths = paths
        self._succession = Succession(paths, serving, self._worry)
        self._drain_s = drain_s
        self._keep_found = keep_found
        self._stopping = False
        self._process: Process | None = None
        self._leaving: list[Process] = []
        self._ended = asyncio.Event()
        self.state = ProxyState(problem="not started yet")

    async def run(self) -> None:
        """Until cancelled or stopped. Cancelling leaves the proxies running."""
        async with asyncio.TaskGroup() as tasks:
            bounding = tasks.create_task(proxy_log.keep_bounded(self._paths.log), name="proxy log")
            pause_s = _FIRST_PAUSE_S
            while not self._stopping:
                started_s = time.monotonic()
                words = await self._one(tasks)
                if self._stopping:
                    break
                if time.monotonic() - started_s > _STEADY_S:
                    pause_s = _FIRST_PAUSE_S
                log.warning("proxy: %s; again in %.1f s", words, pause_s)
                self.state = ProxyState(restarts=self.state.restarts + 1, problem=words)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            bounding.cancel()
        self._ended.set()

    async def finish(self) -> None:
        """Starts none any more, and returns when those that run have ended by themselves."""
        self._stopping = True
        if self._process or self._leaving:
            await self._ended.wait()

    async def stop(self, drain_s: float, ask: Callable[[float], None]) -> None:
        """Ends the proxies and this supervisor: `ask` sends them `shutdown`; one that does not go in time is terminated, then killed."""
        self._stopping = True
        if not (self._process or self._leaving):
            return
        ask(drain_s)
        for after_s, number in ((drain_s + _GRACE_S, signal.SIGTERM), (_GRACE_S, signal.SIGKILL)):
            try:
                async with asyncio.timeout(after_s):
                    await self._ended.wait()
                    return
            except TimeoutError:
                for running in (*([self._process] if self._process else ()), *self._leaving):
                    log.warning("proxy %d: still there, sending %s", running.pid, number.name)
                    running.signal(number)
        async with asyncio.timeout(_GRACE_S):
            await self._ended.wait()

    async def _one(self, tasks: asyncio.TaskGroup) -> str:
        """Adopts or starts one proxy and returns how it, or its successor, ended, in words."""
        running: Process | None = None
        try:
            pid = await asyncio.to_thread(holder, self._paths.lock)
            adopted = pid is not None
            running = Process(pid if pid is not None else await asyncio.to_thread(self._paths.start, self._paths.lock))
            self._serves(running, adopted=adopted)
            log.info("proxy %d: %s", running.pid, "found running" if adopted else "started")
            fits = not adopted or (self._keep_found and runs(running.pid, self._paths.binary))
            if not fits and (successor := await self._succession.of(running)):
                self._leaving.append(running)
                tasks.create_task(self._see_off(running), name=f"proxy {running.pid}: leaving")
                running = successor
                self._serves(running, adopted=False)
            return f"proxy {running.pid}: {await running.wait()}"
        except KernelError as error:
            return str(error)
        finally:
            self._process = None
            if running:
                running.close()

    def _worry(self, problem: str) -> None:
        self.state = replace(self.state, problem=problem)

    def _serves(self, running: Process, *, adopted: bool) -> None:
        self._process = running
        self.state = ProxyState(running.pid, adopted, time.time(), self.state.restarts)

    async def _see_off(self, former: Process) -> None:
        """It ends by itself when its time is up; one that does not is made to."""
        try:
            for after_s, number in ((self._drain_s + _GRACE_S, signal.SIGTERM), (_GRACE_S, signal.SIGKILL)):
                try:
                    async with asyncio.timeout(after_s):
                        log.info("proxy %d, succeeded: %s", former.pid, await former.wait())
                        return
                except TimeoutError:
                    log.warning("proxy %d: still there, sending %s", former.pid, number.name)
                    former.signal(number)
            await former.wait()
        finally:
            self._leaving.remove(former)
            former.close()
