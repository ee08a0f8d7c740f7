"""The bpffs that pins live in: found, or mounted where the mount outlives the agent."""

import errno
from pathlib import Path
from typing import Final

from nodeagent.linux import libc
from nodeagent.linux.errors import KernelError

MOUNT_POINT: Final = Path("/sys/fs/bpf")
_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
_INITIAL_MOUNT_NAMESPACE: Final = 0xEFFFFFF8
"""On kernels that give it a fixed number; on others it is compared with that of process 1."""


def ensure(mount_point: Path = MOUNT_POINT) -> None:
    """Mounts a bpffs if none is there; raises KernelError where what we mount would end with us, and capture with it."""
    if is_mounted(Path("/proc/self/mountinfo").read_text(), mount_point):
        return
    if not _of_the_host():
        raise KernelError(
            errno.ENOENT, f"bpffs {mount_point}", f"mount the host's {MOUNT_POINT} there: one of the agent's own would end with it"
        )
    libc.mount("bpf", str(mount_point))


def is_mounted(mountinfo: str, mount_point: Path) -> bool:
    """Whether the file system seen at `mount_point` is a bpffs: proc_pid_mountinfo(5), where a later mount hides an earlier."""
    kind = ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[4] == str(mount_point):
            kind = right.split()[0]
    return kind == "bpf"


def _of_the_host() -> bool:
    """Whether our mounts are those of the machine's first process: others end with the container, or the unit, that has them."""
    if Path("/proc/self/ns/pid").stat().st_ino != _INITIAL_PID_NAMESPACE:
        return False
    own = Path("/proc/self/ns/mnt").stat().st_ino
    if own == _INITIAL_MOUNT_NAMESPACE:
        return True
    try:
        return Path("/proc/1/ns/mnt").stat().st_ino == own
    except OSError:
        return False
