"""Keeps one proxy process running: starts it, recognises one that outlived an agent, starts it again when it dies."""

import asyncio
import errno
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.linux import process
from nodeagent.linux.errors import KernelError
from nodeagent.linux.process import Process
from nodeagent.ztunnel import proxy_log

log = logging.getLogger(__name__)

BUNDLED: Final = Path(__file__).parent / "bin" / "nodemesh-proxy"
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 10.0
"""A proxy that ran this long was no failed start: the next one comes at once."""
_LOCK_POLL_S: Final = 0.02
_LOCK_DEADLINE_S: Final = 5.0
_GRACE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ProxyPaths:
    """Where the proxy is and where it finds the agent. `lock` is held by the one that runs, and has its pid."""

    binary: Path
    socket: Path
    lock: Path
    log: Path


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

    def __init__(self, paths: ProxyPaths, *, arguments: tuple[str, ...] = ()) -> None:
        self._paths = paths
        self._arguments = arguments
        self._stopping = False
        self._process: Process | None = None
        self._ended = asyncio.Event()
        self.state = ProxyState(problem="not started yet")

    async def run(self) -> None:
        """Until cancelled or stopped. Cancelling leaves the proxy running."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping:
            started_s = time.monotonic()
            words = await self._one()
            if self._stopping:
                break
            if time.monotonic() - started_s > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            log.warning("proxy: %s; again in %.1f s", words, pause_s)
            self.state = ProxyState(restarts=self.state.restarts + 1, problem=words)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        self._ended.set()

    async def stop(self, drain_s: float, ask: Callable[[float], None]) -> None:
        """Ends the proxy and this supervisor: `ask` sends it `shutdown`; one that does not go in time is terminated, then killed."""
        self._stopping = True
        if not (running := self._process):
            return
        ask(drain_s)
        for after_s, number in ((drain_s + _GRACE_S, signal.SIGTERM), (_GRACE_S, signal.SIGKILL)):
            try:
                async with asyncio.timeout(after_s):
                    await self._ended.wait()
                    return
            except TimeoutError:
                log.warning("proxy %d: still there, sending %s", running.pid, number.name)
                running.signal(number)
        async with asyncio.timeout(_GRACE_S):
            await self._ended.wait()

    async def _one(self) -> str:
        """Adopts or starts one proxy and returns how it ended, in words."""
        try:
            pid = await asyncio.to_thread(holder, self._paths.lock)
            adopted = pid is not None
            with Process(pid if pid is not None else self._start()) as running:
                self._process = running
                self.state = ProxyState(running.pid, adopted, time.time(), self.state.restarts)
                log.info("proxy %d: %s", running.pid, "found running" if adopted else "started")
                return f"proxy {running.pid}: {await self._until_ended(running)}"
        except KernelError as error:
            return str(error)
        finally:
            self._process = None

    async def _until_ended(self, running: Process) -> str:
        async with asyncio.TaskGroup() as tasks:
            bounding = tasks.create_task(proxy_log.keep_bounded(self._paths.log), name="proxy log")
            words = await running.wait()
            bounding.cancel()
        return words

    def _start(self) -> int:
        command = [str(self._paths.binary), "--socket", str(self._paths.socket), "--lock", str(self._paths.lock), *self._arguments]
        return process.start(command, log_file=self._paths.log)


def holder(lock: Path) -> int | None:
    """The pid of the proxy that holds the lock, None if none does. Blocks for the moment between a proxy's lock and its pid.

    Raises KernelError if the lock is held and the file never says by whom.
    """
    deadline_s = time.monotonic() + _LOCK_DEADLINE_S
    while time.monotonic() < deadline_s:
        try:
            descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not _held(descriptor):
                return None
            written = os.pread(descriptor, 32, 0).strip()
            # The number may be a former proxy's, and another process's by now: the kernel's own list must have it, too.
            if written.isdigit() and int(written) in _owners(os.fstat(descriptor).st_ino):
                return int(written)
        finally:
            os.close(descriptor)
        time.sleep(_LOCK_POLL_S)
    raise KernelError(errno.EAGAIN, f"lock {lock}", "it is held, but not by the process that it names")


def _held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _owners(inode: int) -> set[int]:
    """The processes that hold a lock on a file with this number; its device reads differently on stacked file systems."""
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return {int(fields[4]) for fields in lines if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode)}
