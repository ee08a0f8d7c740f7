"""Kernel parameters of this namespace, by their dotted names."""

import errno
import os
from pathlib import Path
from typing import Final

from nodeagent.linux.errors import KernelError

_HINT: Final = "in a container /proc/sys can't be written to: mount the host's /proc at /host/proc"
_OWN: Final = Path("/proc/sys")
_HOST: Final = Path("/host/proc/sys")


def read(name: str) -> str | None:
    """The value, None if this kernel or namespace has no such parameter (IPv6 switched off)."""
    try:
        return _path(name).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"sysctl {name}") from error


def write(name: str, value: str) -> None:
    """Sets the parameter; raises KernelError."""
    try:
        _path(name).write_text(value)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"sysctl {name}={value}", _HINT) from error


def _path(name: str) -> Path:
    # Both show the network namespace of the thread that opens the file, whoever's /proc it is.
    own_is_writable = not os.statvfs(_OWN).f_flag & os.ST_RDONLY
    return (_OWN if own_is_writable or not _HOST.is_dir() else _HOST) / name.replace(".", "/")
