"""A namespace's connection tracking, filled to the machine's limit and emptied again: real entries, made over ctnetlink."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.nodeagent.pods import Side

_NETLINK_NETFILTER = 12
_NEW, _DELETE = 0x0100, 0x0102
_REQUEST, _CREATE, _ACK = 0x1, 0x400, 0x4
_NESTED = 0x8000
_ASSURED = struct.pack("!I", 0x2 | 0x4 | 0x8)
"""Seen in both directions, assured, confirmed: the kernel gives up none of these for a new one."""
_ESTABLISHED = b"\x03"
_BATCH = 500


def count(side: Side) -> int:
    """How many entries the namespace has."""
    return int(side.shell("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))


@contextmanager
def full(side: Side) -> Iterator[None]:
    """No further connection can be tracked there while this lasts. The limit is the machine's, for each namespace on its own."""
    limit = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    with side.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        missing = limit - count(side)
        for first in range(0, missing, _BATCH):
            link.sendall(b"".join(_entry(number) for number in range(first, min(first + _BATCH, missing))))
        assert count(side) >= limit
        try:
            yield
        finally:
            link.sendall(_message(_DELETE, _REQUEST | _ACK, b""))
            assert struct.unpack_from("=i", link.recv(4096), 16) == (0,)


def _entry(number: int) -> bytes:
    """One connection that never was, to an address that is nobody's."""
    here, there = socket.inet_aton("198.51.100.1"), struct.pack("!I", (203 << 24) + (113 << 8) + (number >> 15))
    ports = struct.pack("!H", 1024 + (number & 0x7FFF)), struct.pack("!H", 1)
    body = _tuple(1, here, there, *ports) + _tuple(2, there, here, *reversed(ports))
    body += _attribute(3, _ASSURED) + _attribute(7, struct.pack("!I", 600))
    body += _attribute(4 | _NESTED, _attribute(1 | _NESTED, _attribute(1, _ESTABLISHED)))
    return _message(_NEW, _REQUEST | _CREATE, body)


def _tuple(kind: int, source: bytes, destination: bytes, source_port: bytes, destination_port: bytes) -> bytes:
    addresses = _attribute(1 | _NESTED, _attribute(1, source) + _attribute(2, destination))
    ports = _attribute(1, bytes([socket.IPPROTO_TCP])) + _attribute(2, source_port) + _attribute(3, destination_port)
    return _attribute(kind | _NESTED, addresses + _attribute(2 | _NESTED, ports))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 20 + len(body), kind, flags, 0, 0) + struct.pack("=BBH", socket.AF_INET, 0, 0) + body
