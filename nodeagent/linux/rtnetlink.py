"""Routing netlink as bytes, and the socket that carries it: the few messages that the agent needs.

Layouts are those of linux/netlink.h, rtnetlink.h, fib_rules.h, if_addr.h and if_link.h, in the byte order of the host. A library for all
of netlink would cost an eighth of the agent's memory.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from nodeagent.linux.errors import KernelError

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR_CODE: Final = struct.Struct("=i")
_REQUEST: Final = 0x1
_ACK: Final = 0x4
_DUMP_INTERRUPTED: Final = 0x10
_EXCLUSIVE: Final = 0x200
_DUMP: Final = 0x300
_CREATE: Final = 0x400
_ATTRIBUTE_TYPE: Final = 0x3FFF
_ERROR: Final = 2
_DONE: Final = 3
_TIMEOUT_S: Final = 5.0
_RECEIVE_BYTES: Final = 1 << 16
_DUMP_TRIES: Final = 5


class Kind(IntEnum):
    """Message types (RTM_*)."""

    NEW_LINK = 16
    SET_LINK = 19
    NEW_ADDRESS = 20
    GET_ADDRESS = 22
    NEW_ROUTE = 24
    DELETE_ROUTE = 25
    GET_ROUTE = 26
    NEW_RULE = 32
    DELETE_RULE = 33
    GET_RULE = 34


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the kernel after its header, which is told apart by `read`."""

    payload: bytes

    def read(self, fixed: struct.Struct) -> tuple[tuple[int, ...], dict[int, bytes]]:
        """Its fixed part, and its attributes by type."""
        return fixed.unpack_from(self.payload), dict(decode_attributes(self.payload[_aligned(fixed.size) :]))


def encode_attributes(attributes: Mapping[int, bytes]) -> bytes:
    """Each with its length and type, padded to four bytes."""
    return b"".join(
        (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value).ljust(_ATTRIBUTE.size + _aligned(len(value)), b"\0")
        for kind, value in attributes.items()
    )


def decode_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each; raises ValueError for lengths that can't be."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            raise ValueError(f"a netlink attribute of {length} bytes")
        yield kind & _ATTRIBUTE_TYPE, data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)


class RouteSocket:
    """A netlink socket of the namespace that the calling thread is in. Use as a context manager; errors are KernelError about `subject`."""

    def __init__(self, subject: str, *, exists_hint: str = "") -> None:
        self._subject = subject
        self._exists_hint = exists_hint
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def create(self, kind: Kind, body: bytes) -> None:
        """Makes what is not there yet; EEXIST if it is."""
        self._ask(kind, _ACK | _CREATE | _EXCLUSIVE, body)

    def change(self, kind: Kind, body: bytes) -> None:
        """Changes or deletes what is there."""
        self._ask(kind, _ACK, body)

    def dump(self, kind: Kind, body: bytes) -> list[Message]:
        """All there are. Asked again when they changed meanwhile, as the listing may then be wrong."""
        for _ in range(_DUMP_TRIES):
            found = self._ask(kind, _DUMP, body)
            if found is not None:
                return found
        raise KernelError(errno.EAGAIN, self._subject, "it changes all the time")

    def _ask(self, kind: Kind, flags: int, body: bytes) -> list[Message] | None:
        """The answer, None for a listing that was interrupted."""
        self._sequence += 1
        try:
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, self._sequence, 0) + body)
            return self._answer()
        except KernelError:
            raise
        except OSError as error:
            raise KernelError(error.errno or errno.ETIMEDOUT, self._subject) from error
        except (ValueError, struct.error) as error:
            raise KernelError(errno.EBADMSG, self._subject, detail=str(error)) from error

    def _answer(self) -> list[Message] | None:
        found: list[Message] = []
        interrupted = False
        while True:
            for kind, flags, payload in self._receive():
                interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
                if kind in {_ERROR, _DONE}:
                    # The end of a listing says with the same field whether it failed; older kernels leave it out.
                    self._check(-_ERROR_CODE.unpack_from(payload)[0] if len(payload) >= _ERROR_CODE.size else 0)
                    return None if interrupted else found
                found.append(Message(payload))

    def _check(self, number: int) -> None:
        if number:
            raise KernelError(number, self._subject, self._exists_hint if number == errno.EEXIST else "")

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """The messages of one datagram that answer the last question: type, flags and what follows the header."""
        data, _, flags, (sender, _groups) = self._socket.recvmsg(_RECEIVE_BYTES)
        if flags & socket.MSG_TRUNC:
            raise ValueError("a netlink message that was cut off")
        offset = 0
        # Another process may send to this socket, too; the kernel's port is 0.
        while sender == 0 and offset + _HEADER.size <= len(data):
            length, kind, header_flags, sequence, _port = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size or offset + length > len(data):
                raise ValueError(f"a netlink message of {length} bytes")
            if sequence == self._sequence:
                yield kind, header_flags, data[offset + _HEADER.size : offset + length]
            offset += _aligned(length)


def _aligned(size: int) -> int:
    return (size + 3) & ~3
