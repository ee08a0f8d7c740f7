"""Kernel parameters of this namespace, by their dotted names."""

import errno
from pathlib import Path

from nodeagent.linux.errors import KernelError


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
        raise KernelError(error.errno or errno.EIO, f"sysctl {name}={value}", "is /proc/sys writable for the agent?") from error


def _path(name: str) -> Path:
    # /proc/sys/net shows the namespace of the thread that opens the file.
    return Path("/proc/sys") / name.replace(".", "/")
