"""No wait of the proxy is without end: whoever keeps it waiting is let go of when the deadline of that stage has passed."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from nodeagent.ztunnel.protocol import AskRoute, Endpoint, Forward, Pass, RemoveWorkload, Settings, Tunnel
from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind
from tests.nodeagent.ztunnel.proxy.attacks.peer import HBONE_PORT, Peer
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, full_backlog, heard_of, hold, victim
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, echo, identity_of, server
from tests.nodeagent.ztunnel.proxy.stub import until

DEADLINE_S = 0.5
LATE_S = DEADLINE_S + 1.5
PERIOD_S = 0.05


def short(*stages: str) -> Settings:
    """Short deadlines for these stages and for no other, so that it is theirs that a test sees."""
    return msgspec.structs.replace(Settings(connect_tries=1), **dict.fromkeys(stages, DEADLINE_S))


def ends_in_time(connection: socket.socket, *, drip: bytes = b"") -> bool:
    """Whether the victim ends the connection after its deadline and not much later; a byte of `drip` is sent every 50 ms meanwhile."""
    begin_s = time.monotonic()
    left = iter(drip)
    connection.settimeout(1)
    while time.monotonic() - begin_s < LATE_S:
        if _has_ended(connection):
            return time.monotonic() - begin_s > DEADLINE_S / 2
        byte = next(left, None)
        try:
            connection.sendall(b"" if byte is None else bytes([byte]))
        except OSError:
            return True
    return False


def _has_ended(connection: socket.socket) -> bool:
    """Waits a period for news; what is no end is dropped."""
    pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
    if not pending and not select.select([connection], [], [], PERIOD_S)[0]:
        return False
    try:
        return connection.recv(65536) == b""
    except OSError:
        return True


@pytest.mark.parametrize("drip", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)], ids=["silent", "byte by byte"])
def test_a_peer_that_does_not_finish_its_handshake(tmp_path: Path, drip: bytes) -> None:
    with victim(tmp_path, short("handshake_deadline_s")) as target, target.dial() as connection:
        assert ends_in_time(connection, drip=drip)
        until(lambda: target.served.agent.report().tunnels_in == 0)


@pytest.mark.parametrize("drip", [b"", frames.PREFACE + frames.settings() * 20], ids=["silent", "byte by byte"])
def test_a_peer_that_does_not_send_its_preface(tmp_path: Path, drip: bytes) -> None:
    with victim(tmp_path, short("preface_deadline_s")) as target, target.begin() as peer:
        # A preface of 24 bytes and a frame of 9, one byte in 50 ms, takes three times the deadline.
        assert ends_in_time(peer.connection, drip=drip)
        until(lambda: target.served.agent.report().tunnels_in == 0)


def test_a_peer_that_does_not_acknowledge_the_drain_opens_streams_for_a_second_and_no_longer(target: Victim) -> None:
    uid = target.served.script.workloads[0][0].uid
    with server(target.served.side, echo), target.peer() as peer:
        held = peer.open(target.backend)
        assert peer.status(held) == 200
        target.served.agent.send(RemoveWorkload(uid=uid, drain_s=10))
        announced = peer.wait_for(lambda one: one.kind == Kind.GOAWAY)
        assert announced.payload[:4] == b"\x7f\xff\xff\xff"
        assert peer.ask(target.backend) == 200, "it may have been on its way"
        last = peer.wait_for(lambda one: one.kind == Kind.GOAWAY, within_s=3)
        assert int.from_bytes(last.payload[:4], "big") == held + 2
        late = peer.open(target.backend)
        peer.wait_for(lambda one: one.kind == Kind.RST_STREAM and one.stream == late)
        assert peer.echo(held, b"still here")


def test_an_application_that_does_not_accept(tmp_path: Path) -> None:
    with victim(tmp_path, short("connect_deadline_s")) as target, full_backlog(target.served.side) as port, target.peer() as peer:
        assert peer.status(peer.open(f"{target.served.address}:{port}"), within_s=LATE_S) == 503
        until(lambda: bool(target.served.agent.closed))
        assert target.served.agent.closed[0].flag == "UF"
        assert peer.is_open()


def test_an_agent_that_does_not_decide(tmp_path: Path) -> None:
    with victim(tmp_path, short("decision_deadline_s")) as target, target.peer() as peer, server(target.served.side, echo) as seen:
        target.served.script.verdict = lambda _: None
        assert peer.status(peer.open(target.backend, then=b"early"), within_s=LATE_S) == 503
        assert heard_of(target.served.side, seen) == []
        until(lambda: bool(target.served.agent.closed))
        assert target.served.agent.closed[0].flag == "DT"
        until(lambda: target.served.agent.report().waiting_questions == 0)


def test_a_peer_that_does_not_answer_pings(tmp_path: Path) -> None:
    with victim(tmp_path, short("ping_interval_s", "ping_deadline_s")) as target, target.peer() as peer, server(target.served.side, echo):
        stream = peer.open(target.backend)
        assert peer.status(stream) == 200
        connection = peer.connection
        begin_s = time.monotonic()
        # Nothing is sent, an acknowledgement neither.
        while not _has_ended(connection):
            # Sweeps are once a second: the ping goes out at one, and the end comes at another.
            assert time.monotonic() - begin_s < 5
        until(lambda: target.served.agent.report().connections == 0)


def _stalling_server(behave: Callable[[Peer], None], context: ssl.SSLContext, over: threading.Event) -> Callable[[socket.socket], None]:
    """Serves a handshake, then does what the test wants, and holds the connection."""

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            behave(Peer(tls))
            over.wait(10)

    return serve


def _outbound_failure(target: Victim, address: str, *, plain: bool = False) -> tuple[str | None, str | None]:
    """Dials through the victim, as its application, an endpoint that stalls: how long the client waits is checked, the log returned."""

    def route(asked: AskRoute) -> Forward | Pass:
        if plain:
            return Pass(attributes={})
        tunnel = Tunnel(identity=identity_of("server"), authority=asked.destination, expect=(identity_of("stalling"),))
        return Forward(endpoints=(Endpoint(uid="stalling", address=f"{address}:{HBONE_PORT}", attributes={}, tunnel=tunnel),))

    target.served.script.route = route
    with target.served.side.dial(address, BACKEND_PORT) as connection:
        assert ends_in_time(connection)
    until(lambda: bool(target.served.agent.closed))
    entry = target.served.agent.closed[0]
    assert target.served.agent.report().connections == 0
    return entry.flag, entry.error


@pytest.mark.parametrize("plain", [False, True], ids=["tunnel", "pass"])
def test_an_endpoint_that_does_not_answer_tcp(tmp_path: Path, plain: bool) -> None:
    with victim(tmp_path, short("connect_deadline_s")) as target:
        # An address that nobody has, with a neighbour entry so that the kernel does not notice.
        target.served.side.shell("ip", "neigh", "add", "10.77.0.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
        flag, error = _outbound_failure(target, "10.77.0.99", plain=plain)
        assert flag == "UF"
        assert "no answer in time" in str(error)


def test_an_endpoint_that_does_not_handshake(tmp_path: Path) -> None:
    over = threading.Event()
    with victim(tmp_path, short("handshake_deadline_s")) as target, server(target.stranger, lambda _: hold(over), port=HBONE_PORT):
        flag, error = _outbound_failure(target, target.stranger.addresses[socket.AF_INET])
        over.set()
        assert (flag, error) == ("DT", "the TLS handshake took too long")


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (lambda _: None, "no HTTP/2 preface came in time"),
        (lambda peer: peer.send(frames.settings()), "the other side gave no answer in time"),
    ],
    ids=["no settings", "no answer"],
)
def test_an_endpoint_that_stalls_in_http2(tmp_path: Path, behave: Callable[[Peer], None], error: str) -> None:
    over = threading.Event()
    with victim(tmp_path, short("preface_deadline_s", "answer_deadline_s")) as target:
        identity = target.authority.issue(identity_of("stalling"))
        pem = tmp_path / "stalling.pem"
        pem.write_text(identity.chain + identity.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        context.load_verify_locations(cadata=target.authority.root_pem)
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        with server(target.stranger, _stalling_server(behave, context, over), port=HBONE_PORT):
            logged = _outbound_failure(target, target.stranger.addresses[socket.AF_INET])
            over.set()
        assert logged == ("DT", error)


def test_a_half_closed_connection_is_reaped_when_silent(tmp_path: Path) -> None:
    over = threading.Event()
    with victim(tmp_path, Settings(half_closed_s=0.3)) as target, target.peer() as peer:
        # The application answers the end of its client by reading on, and never ends itself.
        with server(target.served.side, lambda _: hold(over)) as seen:
            stream = peer.open(target.backend)
            assert peer.status(stream) == 200
            peer.send(frames.data(stream, b"", end=True))
            until(lambda: target.served.agent.report().connections == 0, deadline_s=4)
            over.set()
        until(lambda: len(seen) == 1)
        until(lambda: bool(target.served.agent.closed))
        assert target.served.agent.closed[0].flag == "DT"
        assert peer.is_open()
