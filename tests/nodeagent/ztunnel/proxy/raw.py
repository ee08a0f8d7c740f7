"""A peer written for tests, independent of the proxy's own code: TLS by the ssl module, HTTP/2 frames by hand."""

import socket
import ssl
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nodeagent.ztunnel.protocol import SetIdentity

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_STATUSES = {0x88: 200, 0x8C: 400, 0x8E: 500}


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


class RawPeer:
    """A client of the HBONE port. Use as a context manager."""

    def __init__(self, connection: socket.socket, identity: SetIdentity | None, *, alpn: str = "h2", tls12: bool = False) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        if tls12:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if identity is not None:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "identity.pem"
                path.write_text(identity.chain + identity.key)
                context.load_cert_chain(path)
        self._tls = context.wrap_socket(connection)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tls.close()

    def begin(self) -> None:
        self._tls.sendall(_PREFACE + frame(SETTINGS, 0, 0, b""))

    def send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._tls.sendall(frame(kind, flags, stream, payload))

    def connect(self, stream: int, authority: str, extra: list[tuple[str, str]] | None = None) -> None:
        block = literal(":method", "CONNECT") + literal(":authority", authority)
        for name, value in extra or []:
            block += literal(name, value)
        self.send(HEADERS, END_HEADERS, stream, block)

    def status(self, stream: int) -> int:
        """The status that the stream is answered with."""
        while True:
            got = self.next()
            if got.kind == HEADERS and got.stream == stream:
                # A server that was told of a table of another size begins its first block by saying that it uses none.
                block = got.payload.removeprefix(b"\x20")
                return _STATUSES.get(block[0]) or int(block[-3:])

    def next(self) -> Frame:
        """The next frame; EOFError when the connection has ended."""
        length = int.from_bytes(self._take(3), "big")
        kind, flags, stream = struct.unpack("!BBI", self._take(6))
        return Frame(kind, flags, stream, self._take(length))

    def ends(self) -> bool:
        """Reads to the end; whether it comes before the socket's timeout."""
        try:
            while True:
                self.next()
        except TimeoutError:
            return False
        except (EOFError, OSError):
            return True

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._tls.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header field without indexing and without Huffman; both shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
