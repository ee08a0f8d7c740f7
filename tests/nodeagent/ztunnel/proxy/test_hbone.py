"""The HBONE port against peers that are not ours: who is let in, what a CONNECT may name, and how each refusal looks."""

import select
import socket
import struct
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from nodeagent.ztunnel.protocol import AskVerdict, RemoveWorkload, Revocation, SetIdentity, Settings, SetTrust, Shutdown
from tests.nodeagent.ztunnel.proxy.authority import Authority
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Mesh, echo, hbone_route, identity_of, mesh, server
from tests.nodeagent.ztunnel.proxy.raw import DATA, END_STREAM, GOAWAY, RawPeer
from tests.nodeagent.ztunnel.proxy.stub import Judgement, until
from tests.nodeagent.ztunnel.proxy.test_decisions import is_cut, is_turned_away, talk

HBONE_PORT = 15008


def peer(both: Mesh, identity: SetIdentity | None = None) -> RawPeer:
    shown = identity or both.authority.issue(identity_of("raw"))
    return RawPeer(both.client.side.dial(both.server.address, HBONE_PORT, timeout_s=5), shown)


@pytest.fixture(autouse=True)
def _past_the_mesh(request: pytest.FixtureRequest) -> None:
    """What the raw peer dials goes past the client's tunnels: it speaks HBONE itself."""
    if "both" in request.fixturenames:
        both: Mesh = request.getfixturevalue("both")
        normal = both.client.script.route
        both.client.script.route = lambda asked: (
            hbone_route(asked, both.client) if asked.destination.endswith(f":{HBONE_PORT}") else normal(asked)
        )


def test_another_implementation_is_served(both: Mesh) -> None:
    with server(both.server.side, echo) as seen, peer(both) as raw:
        raw.begin()
        raw.connect(
            1, f"{both.server.address}:{BACKEND_PORT}", [("forwarded", 'for="192.0.2.1:1"'), ("baggage", "k8s.namespace.name=admin")]
        )
        assert raw.status(1) == 200
        raw.send(DATA, END_STREAM, 1, b"hello")
        received, ended = b"", False
        while not ended:
            got = raw.next()
            if got.kind == DATA and got.stream == 1:
                received += got.payload
                ended = bool(got.flags & END_STREAM)
        assert received == b"hello"
    # What a peer claims in headers changes nothing: neither the source nor who it is.
    assert seen == [both.client.address]
    (asked,) = both.server.agent.questions(AskVerdict)
    assert isinstance(asked, AskVerdict)
    assert (asked.peer, asked.source) == (identity_of("raw"), both.client.address)


NOT_THIS_WORKLOAD = (
    "10.77.0.2:8080",
    "10.77.0.9:8080",
    "127.0.0.1:8080",
    "[::1]:8080",
    "169.254.169.254:80",
    "10.77.0.1:15001",
    "10.77.0.1:15006",
    "10.77.0.1:15008",
    "10.77.0.1:15020",
    "10.77.0.1:0",
    "10.77.0.1:65536",
    "10.77.0.1",
    "user@10.77.0.1:8080",
    "10.77.0.1:8080/path",
    "[fd77::1%eth0]:8080",
    "[::ffff:10.77.0.1]:8080",
    "backend.test.svc.cluster.local:8080",
)


def test_an_authority_that_is_not_this_workload_is_refused_without_a_question(both: Mesh) -> None:
    with server(both.server.side, echo) as seen, peer(both) as raw:
        raw.begin()
        for stream, authority in enumerate(NOT_THIS_WORKLOAD):
            raw.connect(2 * stream + 1, authority)
            assert raw.status(2 * stream + 1) == 400, authority
        assert seen == []
    assert both.server.agent.questions(AskVerdict) == []


def test_a_connect_with_more_than_an_authority_is_refused(both: Mesh) -> None:
    with server(both.server.side, echo) as seen, peer(both) as raw:
        raw.begin()
        for stream, extra in enumerate([(":scheme", "https"), (":path", "/"), (":protocol", "websocket")]):
            raw.connect(2 * stream + 1, f"{both.server.address}:{BACKEND_PORT}", [extra])
            assert raw.status(2 * stream + 1) == 400, extra
        assert seen == []


def test_denied_is_401_and_unreachable_503(both: Mesh) -> None:
    both.server.script.verdict = lambda asked: Judgement(allow=not asked.destination.endswith(":1"))
    with peer(both) as raw:
        raw.begin()
        raw.connect(1, f"{both.server.address}:1")
        assert raw.status(1) == 401
        raw.connect(3, f"{both.server.address}:2")
        assert raw.status(3) == 503
    until(lambda: [entry.flag for entry in both.server.agent.closed] == ["UAEX", "UF"])


def test_a_peer_without_a_good_certificate_gets_nothing(both: Mesh) -> None:
    own = both.authority
    shown = {
        "none": None,
        "another root": Authority("stranger").issue(identity_of("client")),
        "another trust domain": own.issue("spiffe://other.local/ns/test/sa/client"),
        "expired": own.issue(identity_of("client"), lifetime=timedelta(seconds=-30)),
        "no workload": own.issue("spiffe://cluster.local/agent"),
        "not SPIFFE": own.issue("https://cluster.local/ns/test/sa/client"),
    }
    with server(both.server.side, echo) as seen:
        for case, identity in shown.items():
            assert answer_to(both, identity) is None, case
        assert seen == []
    assert both.server.agent.questions(AskVerdict) == []
    until(lambda: both.server.agent.report().tunnels_in == 0)


def answer_to(both: Mesh, identity: SetIdentity | None, *, alpn: str = "h2", tls12: bool = False) -> int | None:
    """The status that a peer's CONNECT gets, None if its connection ends without one."""
    try:
        connection = both.client.side.dial(both.server.address, HBONE_PORT)
        with RawPeer(connection, identity, alpn=alpn, tls12=tls12) as raw:
            raw.begin()
            raw.connect(1, f"{both.server.address}:{BACKEND_PORT}")
            return raw.status(1)
    except TimeoutError:
        pytest.fail("the connection was left open")
    except (EOFError, OSError):
        return None


def test_other_protocols_are_refused_in_the_handshake(both: Mesh) -> None:
    good = both.authority.issue(identity_of("raw"))
    with server(both.server.side, echo):
        assert answer_to(both, good) == 200
        assert answer_to(both, good, alpn="http/1.1") is None
        assert answer_to(both, good, tls12=True) is None


def test_silent_peers_are_dropped_at_the_deadlines(tmp_path: Path) -> None:
    with mesh(tmp_path, Settings(handshake_deadline_s=0.3, preface_deadline_s=0.3)) as both:
        both.client.script.route = lambda asked: hbone_route(asked, both.client)
        with both.client.side.dial(both.server.address, HBONE_PORT) as silent, peer(both) as late:
            silent.settimeout(3)
            assert silent.recv(1) == b""
            assert late.ends()
        until(lambda: both.server.agent.report().tunnels_in == 0)


def test_garbage_ends_the_connection_and_no_other(both: Mesh) -> None:
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as good:
        assert talk(good)
        with both.client.side.dial(both.server.address, HBONE_PORT) as bad:
            bad.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(OSError):
                while bad.recv(4096):
                    pass
        with peer(both) as raw:
            raw.begin()
            raw.send(9, 4, 1, b"continuation of nothing")
            assert raw.ends()
        assert talk(good)


def test_the_server_must_be_who_is_expected(both: Mesh) -> None:
    both.client.script.route = lambda asked: hbone_route(asked, both.server, expect=(identity_of("somebody-else"),))
    with server(both.server.side, echo) as seen:
        assert is_turned_away(both.client, both.server.address)
        assert seen == []
    until(lambda: bool(both.client.agent.closed))
    assert both.client.agent.closed[0].flag == "SI"


@pytest.mark.parametrize("change", ["revoked", "root removed"])
def test_tunnels_that_the_trust_no_longer_carries_are_cut(both: Mesh, change: str) -> None:
    trust = {
        "revoked": SetTrust(
            roots={"cluster.local": both.authority.root_pem}, revoked=(Revocation(identity=identity_of("client"), issued_before_s=1 << 40),)
        ),
        "root removed": SetTrust(roots={"cluster.local": Authority("new root").root_pem}),
    }[change]
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
        assert talk(connection)
        both.server.agent.send(trust)
        assert is_cut(connection)
        assert is_turned_away(both.client, both.server.address)


def test_a_half_closed_connection_that_the_trust_no_longer_carries_is_reset_and_logged_so(both: Mesh) -> None:
    over = threading.Event()

    def end_at_once(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)
        over.wait(10)

    with server(both.server.side, end_at_once), both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
        assert connection.recv(1) == b""
        both.client.agent.send(SetTrust(roots={"cluster.local": Authority("new root").root_pem}))
        news = select.poll()
        news.register(connection, 0)
        assert [event & select.POLLHUP for _, event in news.poll(2000)], "the application said nothing, and is told"
        over.set()
    until(lambda: [entry.flag for entry in both.client.agent.closed] == ["SI"])


def test_a_tunnel_ends_with_the_certificate_of_its_peer(both: Mesh) -> None:
    short = both.authority.issue(identity_of("raw"), lifetime=timedelta(seconds=2))
    with server(both.server.side, echo), peer(both, short) as raw:
        raw.begin()
        raw.connect(1, f"{both.server.address}:{BACKEND_PORT}")
        assert raw.status(1) == 200
        assert raw.ends()


def test_no_certificate_no_tunnel(tmp_path: Path) -> None:
    with mesh(tmp_path) as both, server(both.server.side, echo) as seen:
        both.server.script.identities.clear()
        both.server.restart_agent()
        assert is_turned_away(both.client, both.server.address)
        assert seen == []


@pytest.mark.parametrize("message", [RemoveWorkload(uid="Kubernetes//Pod/test/server", drain_s=5.0), Shutdown(drain_s=5.0)])
def test_a_drain_is_announced_and_lets_streams_finish(both: Mesh, message: RemoveWorkload | Shutdown) -> None:
    with server(both.server.side, echo), peer(both) as raw:
        raw.begin()
        raw.connect(1, f"{both.server.address}:{BACKEND_PORT}")
        assert raw.status(1) == 200
        both.server.agent.send(message)
        while (got := raw.next()).kind != GOAWAY:
            pass
        last_stream, code = struct.unpack("!II", got.payload[:8])
        assert (last_stream >= 1, code) == (True, 0)
        raw.send(DATA, END_STREAM, 1, b"the rest")
        received, ended = b"", False
        while not ended:
            got = raw.next()
            if got.kind == DATA and got.stream == 1:
                received += got.payload
                ended = bool(got.flags & END_STREAM)
        assert received == b"the rest"
        assert raw.ends()


@pytest.mark.parametrize("sooner_s", [0.0, 0.3])
def test_a_drain_ends_sooner_when_that_is_said(both: Mesh, sooner_s: float) -> None:
    uid = "Kubernetes//Pod/test/server"
    with server(both.server.side, echo), peer(both) as raw:
        raw.begin()
        raw.connect(1, f"{both.server.address}:{BACKEND_PORT}")
        assert raw.status(1) == 200
        both.server.agent.send(RemoveWorkload(uid=uid, drain_s=60.0))
        while raw.next().kind != GOAWAY:
            pass
        both.server.agent.send(RemoveWorkload(uid=uid, drain_s=sooner_s))
        assert raw.ends()
