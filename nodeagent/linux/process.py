"""Starting and watching processes: without a fork, in a session of their own, seen through a pidfd."""

import asyncio
import errno
import logging
import os
import shlex
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeagent.linux.descriptors import OwnedDescriptor
from nodeagent.linux.errors import KernelError

log = logging.getLogger(__name__)
_START_FIELD: Final = 19
"""Of /proc/PID/stat, behind the name: when it began."""
_NS_PER_S: Final = 1_000_000_000


def start(command: Sequence[str], *, log_file: Path) -> int:
    """Starts `command` detached from this process: own session, no input, output appended to `log_file`. Returns its pid.

    posix_spawn, because a fork beside gRPC crashes. Raises KernelError.
    """
    log.info("start: %s >>%s 2>&1", shlex.join(command), shlex.quote(str(log_file)))
    try:
        return os.posix_spawn(
            command[0],
            list(command),
            {"PATH": os.defpath},  # nothing of ours: the agent's environment may hold secrets
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log_file), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
        )
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"start {command[0]}", "is the program there and executable?") from error


def executable(pid: int, started_ns: int) -> str | None:
    """The path, in its own mounts, of the file that a process runs; None if it has ended.

    `started_ns`: of the clock CLOCK_BOOTTIME. Another process that has got the pid started at another time, and is not looked at.
    """
    try:
        directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Whose number it is now had it before, too: the directory is that process's own, and nothing of another can be read through it.
        if started_ticks(pid) != started_ns * os.sysconf("SC_CLK_TCK") // _NS_PER_S:
            return None
        return os.fsencode(os.readlink("exe", dir_fd=directory)).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    finally:
        os.close(directory)


class Process(OwnedDescriptor):
    """A running process, child or not, by a pidfd, so that it is never taken for another that got its number; closed, it goes on."""

    def __init__(self, pid: int) -> None:
        """Raises KernelError (ESRCH) if there is no such process."""
        self.pid = pid
        try:
            super().__init__(os.pidfd_open(pid))
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, f"process {pid}") from error

    async def wait(self) -> str:
        """Returns how it ended, in words, once it did; reaps it if it is our child."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(self._descriptor, lambda: None if ended.done() else ended.set_result(None))
        try:
            await ended
        finally:
            loop.remove_reader(self._descriptor)
        return self._reap()

    def _reap(self) -> str:
        try:
            result = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return "ended"
        if result is None:
            return "ended"
        return f"exit code {result.si_status}" if result.si_code == os.CLD_EXITED else f"signal {result.si_status}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; fine if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)


def started_ticks(pid: int) -> int | None:
    """When a process began, in ticks since boot: tells it from another that got its pid. None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    fields = text.rpartition(")")[2].split()
    return int(fields[_START_FIELD]) if len(fields) > _START_FIELD else None
