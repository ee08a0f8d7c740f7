"""A proxy's process: how it is started, and how one that an earlier agent started is recognised, by the lock that it holds."""

import errno
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.linux import process
from nodeagent.linux.errors import KernelError
from nodeagent.ztunnel import proxy_unit

_LOCK_POLL_S: Final = 0.02
_LOCK_DEADLINE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ProxyPaths:
    """Where the proxy is and where it finds the agent. `lock` is held by the one that serves, and has its pid."""

    binary: Path
    socket: Path
    lock: Path
    log: Path

    arguments: tuple[str, ...] = ()
    """Words without blanks."""
    unit: str | None = None
    """A unit of systemd whose instances proxies are; None: they are children of the agent. `log` is unused then."""

    @property
    def next_lock(self) -> Path:
        """A successor's, until it serves."""
        return self.lock.with_suffix(".next")

    def start(self, lock: Path) -> int:
        """Starts a proxy that will hold `lock`; returns its pid. Blocks; raises KernelError."""
        if self.unit is not None:
            return self._start_unit(self.unit, lock)
        command = [str(self.binary), "--socket", str(self.socket), "--lock", str(lock), *self.arguments]
        return process.start(command, log_file=self.log)

    def _start_unit(self, unit: str, lock: Path) -> int:
        variables = {
            "NODEMESH_PROXY_SOCKET": str(self.socket),
            "NODEMESH_PROXY_LOCK": str(lock),
            "NODEMESH_PROXY_OPTIONS": " ".join(self.arguments),
        }
        proxy_unit.start(unit, variables, self.socket.parent)
        pid = holder(lock)
        if pid is None:
            raise KernelError(errno.ESRCH, f"start {unit}", "it ended as soon as it was ready")
        return pid


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


def runs(pid: int, binary: Path) -> bool:
    """Whether the process runs this very file: one that was installed over it is another."""
    try:
        return Path(f"/proc/{pid}/exe").samefile(binary)
    except OSError:
        return False


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
