"""A hand-made HBONE client: real TLS with a certificate of the test's choice, and frames as the test writes them."""

import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from nodeagent.ztunnel.protocol import SetIdentity
from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.frames import Frame, Kind

HBONE_PORT = 15008
MAX_WINDOW_BYTES = 0x7FFFFFFF
INITIAL_WINDOW_SIZE = 4
ENDLESS_WINDOW = ((INITIAL_WINDOW_SIZE, MAX_WINDOW_BYTES),)


class Ended(ConnectionError):
    """The victim closed the connection."""


def client_context(directory: Path, identity: SetIdentity | None, *, alpn: tuple[str, ...] = ("h2",)) -> ssl.SSLContext:
    """TLS as this identity (None: without a certificate). The victim is not verified: that is not what an attacker does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if identity is not None:
        file = directory / f"{identity.identity.rpartition('/')[2] or 'peer'}.pem"
        file.touch(mode=0o600)
        file.write_text(identity.chain + identity.key)
        context.load_cert_chain(file)
    return context


@dataclass(eq=False)
class Peer:
    """A connection behind its TLS handshake. Frames that come are kept until a test asks for them."""

    connection: ssl.SSLSocket
    received: list[Frame] = field(default_factory=list)
    _buffer: bytearray = field(default_factory=bytearray)
    _next_stream: int = 1

    @classmethod
    def over(cls, connection: socket.socket, context: ssl.SSLContext) -> Self:
        """TLS over a connection; raises OSError if the victim refuses."""
        try:
            try:
                connection.getpeername()
            except OSError as error:  # Python leaves its socket open that it wraps around one that was reset already
                raise ConnectionResetError("closed before the handshake") from error
            return cls(context.wrap_socket(connection))
        except OSError:
            connection.close()
            raise

    def greet(self, *settings: tuple[int, int]) -> Self:
        """Preface, SETTINGS, and a window for the connection that never ends; returns when the victim's SETTINGS are there."""
        try:
            self.send(frames.PREFACE + frames.settings(*(settings or ENDLESS_WINDOW)) + frames.window_update(0, MAX_WINDOW_BYTES - 65535))
            self.wait_for(lambda one: one.kind == Kind.SETTINGS and not one.flags & frames.ACK)
            self.send(frames.frame(Kind.SETTINGS, frames.ACK, 0))
        except OSError:
            self.close()
            raise
        return self

    def take_preface(self) -> None:
        """What a client begins with: only for a test that is the server."""
        while len(self._buffer) < len(frames.PREFACE):
            part = self.connection.recv(len(frames.PREFACE) - len(self._buffer))
            if not part:
                raise Ended
            self._buffer += part
        assert self._buffer == frames.PREFACE
        self._buffer.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def open(self, authority: str, *more: tuple[bytes, bytes], then: bytes = b"") -> int:
        """Sends a CONNECT (and `then`, DATA in the same write) on a new stream."""
        stream = self.next_stream()
        ahead = frames.data(stream, then) if then else b""
        self.send(frames.headers(stream, frames.connect_block(authority.encode(), *more)) + ahead)
        return stream

    def next_stream(self) -> int:
        self._next_stream += 2
        return self._next_stream - 2

    def status(self, stream: int, *, within_s: float = 5.0) -> int:
        """The answer to a CONNECT."""
        answer = self.wait_for(lambda one: one.stream == stream and one.kind in {Kind.HEADERS, Kind.RST_STREAM}, within_s=within_s)
        assert answer.kind == Kind.HEADERS, f"stream {stream} was reset: {answer.payload.hex()}"
        return frames.status_of(answer.payload)

    def ask(self, authority: str, *more: tuple[bytes, bytes]) -> int:
        return self.status(self.open(authority, *more))

    def echo(self, stream: int, word: bytes, *, within_s: float = 5.0) -> bool:
        """Whether the application behind the stream sends a word back."""
        self.send(frames.data(stream, word))
        got = b""
        while len(got) < len(word):
            got += self.wait_for(lambda one: one.kind == Kind.DATA and one.stream == stream, within_s=within_s).payload
        return got == word

    def wait_for(self, wanted: Callable[[Frame], bool], *, within_s: float = 5.0) -> Frame:
        """Takes the first frame that is wanted; raises Ended, or TimeoutError."""
        end_s = time.monotonic() + within_s
        while True:
            for index, one in enumerate(self.received):
                if wanted(one):
                    return self.received.pop(index)
            self._read(end_s)

    def goaway(self, *, within_s: float = 2.0) -> int | None:
        """Reads to the end of the connection, which must come in time: the code of the GOAWAY before it, if there was one."""
        end_s = time.monotonic() + within_s
        try:
            while True:
                self._read(end_s)
        except Ended:
            codes = [int(struct.unpack("!I", one.payload[4:8])[0]) for one in self.received if one.kind == Kind.GOAWAY]
            return codes[-1] if codes else None

    def is_open(self) -> bool:
        """Whether the victim answers a PING."""
        self.send(frames.frame(Kind.PING, 0, 0, b"are you?"))
        try:
            self.wait_for(lambda one: one.kind == Kind.PING and bool(one.flags & frames.ACK))
        except Ended:
            return False
        return True

    def _read(self, end_s: float) -> None:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.connection.settimeout(left_s)
        try:
            part = self.connection.recv(1 << 16)
        except TimeoutError:
            raise
        except OSError as error:
            raise Ended from error
        if not part:
            raise Ended
        self._buffer += part
        while (one := frames.take_frame(self._buffer)) is not None:
            self.received.append(one)
