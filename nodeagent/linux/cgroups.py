"""Control groups, version 2: where they are mounted, which one a process is in, and holding one open."""

import errno
import os
from pathlib import Path, PurePosixPath
from typing import Final, Self

from nodeagent.linux.descriptors import OwnedDescriptor
from nodeagent.linux.errors import KernelError

_ROOT_ID: Final = 1
_MEMBER: Final = "0::"
"""Version 2's line of /proc/PID/cgroup."""
_REMOVED: Final = " (deleted)"
_HINT: Final = "in a container, mount the host's /sys/fs/cgroup"


class Cgroup(OwnedDescriptor):
    """An open cgroup. Holding it open does not keep it from being removed; its `id` is never given to another."""

    def __init__(self, descriptor: int, path: str) -> None:
        """Takes `descriptor` over."""
        self.path = path
        """Below the mount, beginning with a slash."""
        super().__init__(descriptor)
        self.id = os.fstat(descriptor).st_ino
        """As eBPF programs and links name it: of 64 bits, and counted up, so that no later cgroup has it."""

    @classmethod
    def open(cls, path: str, mount_point: Path | None = None) -> Self:
        """Opens the one at `path` below the mount (that of the machine, if none is given); raises KernelError."""
        relative = PurePosixPath(path.lstrip("/"))
        if ".." in relative.parts or "\0" in path:
            raise KernelError(errno.EINVAL, f"cgroup {path}", f"it is outside of what is seen here: {_HINT}")
        place = (mount_point or root()) / relative
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, f"cgroup {path}") from error
        return cls(descriptor, f"/{relative}" if relative.parts else "/")

    @property
    def is_root(self) -> bool:
        """It holds every process of the machine."""
        return self.id == _ROOT_ID


def root() -> Path:
    """Where version 2 is mounted: the mount that begins at the machine's root, if one does; raises KernelError if there is none."""
    found = mounts(Path("/proc/self/mountinfo").read_text())
    for mount_point in found:
        if id_at(mount_point) == _ROOT_ID:
            return mount_point
    if not found:
        raise KernelError(errno.ENOENT, "cgroup version 2", "mount it, usually at /sys/fs/cgroup")
    return found[0]


def mounts(mountinfo: str) -> list[Path]:
    """Where version 2 is mounted: proc_pid_mountinfo(5)."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            found.append(Path(_unescaped(left.split()[4])))
    return found


def of_process(pid: int) -> str:
    """The path of the cgroup that a process is in, as `Cgroup.open` takes it; raises KernelError (ESRCH if it has ended)."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except FileNotFoundError as error:
        raise KernelError(errno.ESRCH, f"process {pid}") from error
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"cgroup of process {pid}") from error
    for line in lines:
        if line.startswith(_MEMBER) and not line.endswith(_REMOVED):
            return line.removeprefix(_MEMBER)
    raise KernelError(errno.ENOENT, f"cgroup of process {pid}", "it was removed, or the kernel has none of version 2")


def holding(pid: int, mount_point: Path) -> str:
    """The path, below the mount, of the cgroup that a process is in, found by looking into all of them: raises KernelError.

    For a process in a cgroup namespace, a container's, which is told of no path above it. Takes some 20 us for each cgroup of the machine.
    """
    for directory, _, _ in os.walk(mount_point):
        try:
            members = (Path(directory) / "cgroup.procs").read_text().split()
        except OSError:  # it is gone, or its threads are in several
            continue
        if str(pid) in members:
            return f"/{Path(directory).relative_to(mount_point)}".removesuffix(".")
    raise KernelError(errno.ENOENT, f"cgroup of process {pid}", _HINT)


def own_directory() -> str:
    """The directory of this process's cgroup, also from within a namespace of cgroups; empty where there are none of version 2."""
    try:
        mount_point = root()
        path = of_process(os.getpid())
        if path == "/" or ".." in path:
            path = holding(os.getpid(), mount_point)
        return f"{mount_point}{path}".rstrip("/")
    except KernelError:
        return ""


def id_at(path: Path) -> int | None:
    """The id of the cgroup that is at a path now; None if there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
