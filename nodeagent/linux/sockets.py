"""Sockets of this namespace with the options that a node proxy needs."""

import errno
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeagent.linux.errors import KernelError

_SO_MARK: Final = 36
_SO_NETNS_COOKIE: Final = 71
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_SO_ORIGINAL_DST: Final = 80
_BACKLOG: Final = 4096
_LOOPBACK6: Final = "00000000000000000000000000000001 "


def listener(address: str, port: int, *, mark: int, transparent: bool = False, both: bool = False) -> socket.socket:
    """A listening, non-blocking TCP socket that carries `mark` from its first packet on; raises KernelError.

    `both` lets one of IPv6 take IPv4, too. `transparent` lets it take connections to addresses other than its own (TPROXY).
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Without it connections in TIME_WAIT keep the port from being bound again; a second listener is refused all the same.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        if transparent and family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        elif transparent:
            made.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        made.bind((address, port))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        hint = "another process in the namespace listens there" if error.errno == errno.EADDRINUSE else ""
        raise KernelError(error.errno or errno.EIO, f"listener {address} port {port}", hint) from error
    return made


def transparent(source: str, *, mark: int) -> socket.socket:
    """A TCP socket with `mark` that speaks from an address that need not be this namespace's, by `lo` alone; raises OSError."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        level, option = (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if family == socket.AF_INET6 else (socket.IPPROTO_IP, _IP_TRANSPARENT)
        made.setsockopt(level, option, 1)
        made.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        made.bind((source, 0))
    except OSError:
        made.close()
        raise
    return made


def original_destination(accepted: socket.socket) -> tuple[str, int]:
    """Where a redirected connection was to go; raises OSError if that is not known."""
    if accepted.family == socket.AF_INET6:
        _, port, _, packed = struct.unpack_from("!HHI16s", accepted.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28))
        return socket.inet_ntop(socket.AF_INET6, packed), port
    _, port, packed = struct.unpack_from("!HH4s", accepted.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16))
    return socket.inet_ntop(socket.AF_INET, packed), port


def has_loopback6() -> bool:
    """Whether IPv6 is in use here: its loopback address exists."""
    with suppress(FileNotFoundError):
        return any(line.startswith(_LOOPBACK6) for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines())
    return False


def netns_cookie() -> int:
    """The kernel's number for the network namespace of this thread, which no other ever has: what eBPF programs know it by."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
