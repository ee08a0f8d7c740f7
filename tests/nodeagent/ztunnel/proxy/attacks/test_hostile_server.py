"""The other side of a tunnel that we open may be as hostile as a client: it gets no more of us than one that is down."""

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from nodeagent.ztunnel.protocol import AskRoute, Endpoint, Forward, Pass, Route, Settings, Tunnel
from tests.nodeagent.ztunnel.proxy.attacks import flood, frames
from tests.nodeagent.ztunnel.proxy.attacks.frames import END_HEADERS, Kind
from tests.nodeagent.ztunnel.proxy.attacks.peer import HBONE_PORT, Peer
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, victim
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, echo, identity_of, server
from tests.nodeagent.ztunnel.proxy.stub import until

SETTINGS = Settings(answer_deadline_s=1.0, decision_deadline_s=1.0, connect_tries=3)
MOST_TUNNELS = 10
"""That one connection of an application may cost, whatever the server does."""
HONEST_PORT = BACKEND_PORT + 1
WAYPOINT_PORT = BACKEND_PORT + 2
VIP = "10.96.0.1:80"
CONNECT_ERROR = 10
OK = bytes([0x88])
_ENDLESS = b"".join([frames.frame(Kind.CONTINUATION, 0, 1, b"y" * 10000)] * 200)


def _answer(*parts: bytes) -> Callable[[Peer], None]:
    """Waits for the CONNECT, and sends that."""

    def behave(peer: Peer) -> None:
        peer.send(frames.settings((3, 100)))
        peer.wait_for(lambda one: one.kind == Kind.HEADERS)
        peer.send(b"".join(parts))

    return behave


def _goaway(last_stream: int) -> bytes:
    return frames.frame(Kind.GOAWAY, 0, 0, struct.pack("!II", last_stream, 0))


def _floods(frame: bytes) -> Callable[[Peer], None]:
    def behave(peer: Peer) -> None:
        peer.send(frames.settings((3, 100)))
        while True:
            peer.send(frame * flood.BATCH)

    return behave


UNUSABLE: dict[str, Callable[[Peer], None]] = {
    "no streams allowed": lambda peer: peer.send(frames.settings((3, 0))),
    "goaway at once": lambda peer: peer.send(frames.settings() + _goaway(0)),
    "goaway instead of an answer": _answer(_goaway(0)),
    "refuses the stream": _answer(frames.reset(1, frames.REFUSED_STREAM)),
    "cancels the stream": _answer(frames.reset(1, 8)),
    "ends without a status": _answer(frames.data(1, b"", end=True)),
    "data ahead of the status": _answer(frames.data(1, b"injected") + frames.headers(1, OK)),
    "only informational": _answer(frames.headers(1, b"\x08\x03100") * 5),
    "no status": _answer(frames.headers(1, b"\0\x01x\x01y")),
    "two statuses": _answer(frames.headers(1, OK + OK)),
    "status of no number": _answer(frames.headers(1, b"\x08\x032x0")),
    "status 999": _answer(frames.headers(1, b"\x08\x03999")),
    "status 302": _answer(frames.headers(1, b"\x08\x03302", end=True)),
    "garbled headers": _answer(frames.headers(1, b"\xff" * 50)),
    "endless headers": _answer(frames.frame(Kind.HEADERS, 0, 1, b"\0\x01x" + frames.integer(1 << 24, 7)) + _ENDLESS),
    "answers another stream": _answer(frames.headers(3, OK)),
    "opens a stream itself": _answer(frames.headers(2, frames.connect_block(b"10.77.0.1:8080"))),
    "pushes": _answer(frames.frame(Kind.PUSH_PROMISE, END_HEADERS, 1, struct.pack("!I", 2) + OK)),
    "a window too wide": _answer(frames.window_update(0, 0x7FFFFFFF)),
    "a frame too long": _answer(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"),
    "speaks http/1.1": lambda peer: peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    "floods pings": _floods(frames.frame(Kind.PING, 0, 0, b"8 bytes!")),
    "floods settings": _floods(frames.settings((3, 100))),
    "floods goaways": _floods(_goaway(0x7FFFFFFF)),
    "floods window updates": _floods(frames.window_update(0, 1)),
    "closes": lambda peer: peer.close(),
}


@contextmanager
def _hostile(target: Victim, behave: Callable[[Peer], None]) -> Iterator[list[str]]:
    """Serves the HBONE port of the stranger with a good certificate and bad manners; yields whoever came."""
    identity = target.authority.issue(identity_of("hostile"))
    pem = target.directory / "hostile.pem"
    pem.touch(mode=0o600)
    pem.write_text(identity.chain + identity.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.load_verify_locations(cadata=target.authority.root_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.settimeout(5)
            with suppress(OSError):
                peer = Peer(tls)
                peer.take_preface()
                behave(peer)
                over.wait(10)

    with server(target.stranger, serve, port=HBONE_PORT) as came:
        try:
            yield came
        finally:
            over.set()


@contextmanager
def _victim(directory: Path) -> Iterator[Victim]:
    with victim(directory, SETTINGS, workers=1) as target:
        address = target.stranger.addresses[socket.AF_INET]
        tunnel = Tunnel(identity=identity_of("server"), authority=f"{address}:{BACKEND_PORT}", expect=(identity_of("hostile"),))
        hostile = Endpoint(uid="hostile", address=f"{address}:{HBONE_PORT}", attributes={}, tunnel=tunnel)

        waypoint = msgspec.structs.replace(hostile, uid="waypoint", tunnel=msgspec.structs.replace(tunnel, authority=VIP))

        def route(asked: AskRoute) -> Route:
            if asked.destination.endswith(f":{WAYPOINT_PORT}"):
                return Forward(endpoints=(waypoint,))
            return Pass(attributes={}) if asked.destination.endswith(f":{HONEST_PORT}") else Forward(endpoints=(hostile,))

        target.served.script.route = route
        yield target


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with _victim(tmp_path_factory.mktemp("victim")) as made, server(made.stranger, echo, port=HONEST_PORT):
        yield made


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_server_that_is_unusable_costs_what_one_costs_that_is_down(standing: Victim, kind: str) -> None:
    address = standing.stranger.addresses[socket.AF_INET]
    before_s = standing.cpu_s()
    with _hostile(standing, UNUSABLE[kind]) as came:
        with standing.served.side.dial(address, BACKEND_PORT, timeout_s=4) as connection:
            connection.sendall(b"is anybody there?")
            with pytest.raises(ConnectionResetError):
                connection.recv(100)
        assert 1 <= len(came) <= MOST_TUNNELS
        until(lambda: standing.served.agent.report().connections == 0)
        with standing.served.side.dial(address, HONEST_PORT) as connection:
            connection.sendall(b"others?")
            assert connection.recv(100) == b"others?"
    assert standing.cpu_s() - before_s < 1.0
    until(lambda: standing.served.agent.report().tunnels_out == 0)


def test_windows_that_shrink_below_nothing_stop_the_stream_until_they_open(tmp_path: Path) -> None:
    """SETTINGS may take back window that was used already (RFC 9113, section 6.9.2); what is sent never exceeds what is allowed."""
    data = bytes(200_000)
    received: list[int] = []

    def behave(peer: Peer) -> None:
        peer.send(frames.settings((3, 100)))
        peer.wait_for(lambda one: one.kind == Kind.HEADERS)
        peer.send(frames.headers(1, OK))
        _take(peer, 65535)
        peer.send(frames.settings((4, 1000)) + frames.window_update(1, 64535) + frames.frame(Kind.PING, 0, 0, b"at rest?"))
        # The stream's window is 0 now: 1000 - 65535 + 64535.
        peer.wait_for(lambda one: one.kind == Kind.PING)
        assert not [one for one in peer.received if one.kind == Kind.DATA]
        peer.send(frames.window_update(0, len(data)) + frames.window_update(1, len(data)))
        _take(peer, len(data) - 65535)
        received.append(len(data))
        peer.send(frames.data(1, b"", end=True))

    with _victim(tmp_path) as target, _hostile(target, behave):
        with target.served.side.dial(target.stranger.addresses[socket.AF_INET], BACKEND_PORT) as connection:
            connection.sendall(data)
            assert connection.recv(1) == b""
        assert received == [len(data)]


def _take(peer: Peer, size: int) -> None:
    while size:
        size -= len(peer.wait_for(lambda one: one.kind == Kind.DATA).payload)
        assert size >= 0, "more than the window allowed"


def test_a_connect_says_where_it_goes_for_whom_and_from_what(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def behave(peer: Peer) -> None:
        peer.send(frames.settings((3, 100)))
        asked.append(peer.wait_for(lambda one: one.kind == Kind.HEADERS).payload)
        peer.send(frames.headers(1, OK) + frames.data(1, b"", end=True))

    with _victim(tmp_path) as target, _hostile(target, behave):
        address = target.stranger.addresses[socket.AF_INET]
        with target.served.side.dial(address, BACKEND_PORT) as connection:
            host, port = connection.getsockname()
            assert connection.recv(1) == b""
        (block,) = asked
        for field in (b"CONNECT", f"{address}:{BACKEND_PORT}".encode(), f'for="{host}:{port}"'.encode(), b"service.name=server"):
            assert field in block, field
        for forbidden in (b":scheme", b":path", b":protocol"):
            assert forbidden not in block
        assert re.search(rb"traceparent.00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-00", block, re.DOTALL)


_HTTP = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * 300_000


@pytest.mark.parametrize(
    ("port", "said", "code", "in_order"),
    [
        pytest.param(WAYPOINT_PORT, _HTTP, CONNECT_ERROR, True, id="a waypoint closes behind an answer of HTTP"),
        pytest.param(WAYPOINT_PORT, b"what is no HTTP" * 20_000, CONNECT_ERROR, False, id="a waypoint breaks off TCP"),
        pytest.param(WAYPOINT_PORT, b"", CONNECT_ERROR, False, id="a waypoint breaks off before an answer"),
        pytest.param(WAYPOINT_PORT, _HTTP, 2, False, id="a waypoint that fails"),
        pytest.param(BACKEND_PORT, _HTTP, CONNECT_ERROR, False, id="a workload breaks off"),
    ],
)
def test_a_reset_is_an_end_in_order_only_where_it_can_be_told(standing: Victim, port: int, said: bytes, code: int, in_order: bool) -> None:
    """What came before an end in order is delivered in full, however slowly it is read."""
    chunks = [said[start : start + 16_000] for start in range(0, len(said), 16_000)]
    behave = _answer(frames.headers(1, OK), *(frames.data(1, chunk) for chunk in chunks), frames.reset(1, code))
    with _hostile(standing, behave), standing.served.side.dial(standing.stranger.addresses[socket.AF_INET], port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        got, ended = bytearray(), False
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                got += part
            ended = True
    assert ended is in_order
    assert not in_order or bytes(got) == said
    until(lambda: standing.served.agent.report().tunnels_out == 0)
