"""The system calls that Python 3.11 does not have, one function each."""

import ctypes
import os
from typing import Final

from nodeagent.linux.errors import KernelError

CLONE_FILES: Final = 0x00000400
CLONE_NEWNET: Final = 0x40000000
_NS_GET_NSTYPE: Final = 0xB703
_TIMEX_WORDS: Final = 26
"""Of struct timex, as long words: the mode, offset, frequency, greatest and estimated error (us), status."""
_MAXERROR_WORD: Final = 3
_STATUS_WORD: Final = 5
_STA_UNSYNC: Final = 0x40
_HINT: Final = "the agent needs CAP_SYS_ADMIN"
_libc = ctypes.CDLL(None, use_errno=True)


def setns(descriptor: int, kind: int, subject: str) -> None:
    """Moves the calling thread into a namespace, setns(2)."""
    if _libc.setns(descriptor, kind) != 0:
        raise KernelError(ctypes.get_errno(), f"setns {subject}", _HINT)


def unshare(kind: int) -> None:
    """Gives the calling thread something of its own, unshare(2)."""
    if _libc.unshare(kind) != 0:
        raise KernelError(ctypes.get_errno(), f"unshare {kind:#x}", _HINT)


def close_from(descriptor: int) -> None:
    """Closes `descriptor` and all above, close_range(2)."""
    if _libc.close_range(ctypes.c_uint(descriptor), ctypes.c_uint(0xFFFFFFFF), 0) != 0:
        raise KernelError(ctypes.get_errno(), "close_range")


def namespace_kind(descriptor: int) -> int:
    """The CLONE_ flag of a namespace's kind, ioctl_nsfs(2); -1 for a descriptor that is no namespace."""
    return int(_libc.ioctl(descriptor, _NS_GET_NSTYPE))


def mount(kind: str, target: str) -> None:
    """Mounts a file system that has no device, mount(2)."""
    if _libc.mount(kind.encode(), target.encode(), kind.encode(), ctypes.c_ulong(0), None) != 0:
        raise KernelError(ctypes.get_errno(), f"mount {kind} at {target}", _HINT)


def clock_uncertainty_s() -> float | None:
    """By how much the clock may be off at most, as a time service tells the kernel; None if none keeps it: adjtimex(2)."""
    timex = (ctypes.c_long * _TIMEX_WORDS)()
    if _libc.adjtimex(timex) < 0:
        raise KernelError(ctypes.get_errno(), "clock")
    unsynchronised = timex[_STATUS_WORD] & _STA_UNSYNC
    return None if unsynchronised else timex[_MAXERROR_WORD] / 1e6


def inotify_open() -> int:
    """A descriptor that tells of changes in files, non-blocking, inotify_init1(2)."""
    descriptor = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        raise KernelError(ctypes.get_errno(), "inotify", "raise fs.inotify.max_user_instances")
    return descriptor


def inotify_add(descriptor: int, path: str, mask: int) -> None:
    """Watches `path`, too, inotify_add_watch(2)."""
    if _libc.inotify_add_watch(descriptor, os.fsencode(path), ctypes.c_uint32(mask)) < 0:
        raise KernelError(ctypes.get_errno(), f"watch {path}")
