"""UDP sockets of this namespace for who answers in the place of others: which destination was meant, and answers that come from there."""

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from nodeagent.linux.errors import KernelError

_SO_MARK: Final = 36
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_IP_ORIGDSTADDR: Final = 20
_IPV6_ORIGDSTADDR: Final = 74
_ROOM: Final = 256
"""For what the kernel says beside a datagram."""
_SOCKADDR6: Final = struct.Struct("!HI16s")

Address = tuple[str, int]


class Datagram(NamedTuple):
    """`meant`: where it was sent to, which need be no address of this namespace."""

    body: bytes
    sender: Address
    meant: Address


def taking(address: str, port: int, *, mark: int) -> socket.socket:
    """Takes datagrams to any address that rules give it (TPROXY); raises KernelError."""
    made = _transparent(address, mark)
    try:
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_ORIGDSTADDR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_ORIGDSTADDR, 1)
        made.bind((address, port))
    except OSError as error:
        made.close()
        hint = "another process in the namespace has it" if error.errno == errno.EADDRINUSE else ""
        raise KernelError(error.errno or errno.EIO, f"datagrams to {address} port {port}", hint) from error
    return made


def answering(address: str, port: int, *, mark: int) -> socket.socket:
    """Sends as if from `address`, which need not be of this namespace; raises KernelError. Others may do so at the same time."""
    made = _transparent(address, mark)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is sent to it is others': it never reads.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        made.bind((address, port))
    except OSError as error:
        made.close()
        raise KernelError(error.errno or errno.EIO, f"answers from {address} port {port}") from error
    return made


def dialling(address: str, port: int, *, mark: int) -> socket.socket:
    """Talks to one other end and hears from no other; from a port of the kernel's choice. Raises OSError."""
    made = socket.socket(_family(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        made.connect((address, port))
    except OSError:
        made.close()
        raise
    return made


def receive(taken: socket.socket, size_bytes: int) -> Datagram | None:
    """The next datagram of a socket of `taking`; None for one that does not say where it was meant to go. Raises BlockingIOError."""
    body, beside, _, sender = taken.recvmsg(size_bytes, _ROOM)
    for level, kind, data in beside:
        if level == socket.IPPROTO_IP and kind == _IP_ORIGDSTADDR:
            return Datagram(body, sender[:2], (str(IPv4Address(data[4:8])), int.from_bytes(data[2:4], "big")))
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_ORIGDSTADDR:
            port, _, packed = _SOCKADDR6.unpack_from(data, 2)
            return Datagram(body, sender[:2], (str(IPv6Address(packed)), port))
    return None


def _transparent(address: str, mark: int) -> socket.socket:
    made = socket.socket(_family(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    except OSError as error:
        made.close()
        raise KernelError(error.errno or errno.EIO, f"a transparent socket for {address}") from error
    return made


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
