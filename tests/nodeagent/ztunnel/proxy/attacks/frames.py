"""HTTP/2 frames made by hand, so that a test can send what no library would."""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PRIORITY_FLAG = 0x20
HEADER_BYTES = 9
REFUSED_STREAM = 7
ENHANCE_YOUR_CALM = 11
_KNOWN_STATUS = {0x88: 200, 0x89: 204, 0x8C: 400, 0x8D: 404, 0x8E: 500}


class Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def take_frame(buffer: bytearray) -> Frame | None:
    """Removes the first frame of `buffer`, if all of it is there."""
    if len(buffer) < HEADER_BYTES:
        return None
    length = int.from_bytes(buffer[:3], "big")
    if len(buffer) < HEADER_BYTES + length:
        return None
    taken = Frame(buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), bytes(buffer[HEADER_BYTES : HEADER_BYTES + length]))
    del buffer[: HEADER_BYTES + length]
    return taken


def settings(*values: tuple[int, int]) -> bytes:
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack("!HI", *value) for value in values))


def window_update(stream: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))


def reset(stream: int, code: int = 8) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream, struct.pack("!I", code))


def data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    return frame(Kind.DATA, END_STREAM if end else 0, stream, payload)


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block of literals that are never indexed."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def connect_block(authority: bytes, *more: tuple[bytes, bytes]) -> bytes:
    return block([(b":method", b"CONNECT"), (b":authority", authority), *more])


def headers(stream: int, encoded: bytes, *, end: bool = False) -> bytes:
    return frame(Kind.HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, encoded)


def status_of(encoded: bytes) -> int:
    """The status that opens the header block of an answer of ours."""
    start = 1 if encoded[0] == 0x20 else 0
    known = _KNOWN_STATUS.get(encoded[start])
    if known is not None:
        return known
    assert encoded[start : start + 2] == b"\x08\x03", encoded.hex()
    return int(encoded[start + 2 : start + 5])


def _string(text: bytes) -> bytes:
    return integer(len(text), 7) + text


def integer(value: int, prefix_bits: int, first: int = 0) -> bytes:
    """An HPACK integer, its first byte or-ed with `first`."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([first | value])
    out = bytearray([first | most])
    value -= most
    while value >= 0x80:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)
