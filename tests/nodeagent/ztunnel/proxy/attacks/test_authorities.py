"""A CONNECT names the pod's own application or gets 400, whatever its headers claim, and nothing goes ahead of the verdict."""

import socket
import threading

import pytest

from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind
from tests.nodeagent.ztunnel.proxy.attacks.peer import Peer
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, heard_of
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, echo, identity_of, server
from tests.nodeagent.ztunnel.proxy.stub import Judgement, until

FOREIGN = [
    "10.77.0.2:8080",
    "10.77.0.9:8080",
    "127.0.0.1:8080",
    "127.0.0.2:8080",
    "[::1]:8080",
    "0.0.0.0:8080",
    "[::]:8080",
    "localhost:8080",
    "169.254.169.254:80",
    "[fe80::1]:8080",
    "[fe80::1%25eth0]:8080",
    "255.255.255.255:80",
    "224.0.0.1:80",
    "[ff02::1]:80",
    "[::ffff:10.77.0.1]:8080",
    "[::ffff:a4d:1]:8080",
    "[::10.77.0.1]:8080",
    "[64:ff9b::a4d:1]:8080",
    "server.test.svc.cluster.local:8080",
]
WRONG_PORT = [
    "0",
    "00",
    "65536",
    "99999",
    "-1",
    "+80",
    "080",
    "0x50",
    "8080x",
    "80.0",
    "15000",
    "15001",
    "15006",
    "15008",
    "15020",
    "15021",
    "15053",
    "http",
]
WRONG_FORM = [
    "{ip}",
    "{ip}:",
    ":8080",
    "{ip}:8080/",
    "{ip}:8080/path",
    "{ip}:8080?q",
    "{ip}:8080#f",
    "http://{ip}:8080",
    "//{ip}:8080",
    "user@{ip}:8080",
    "user:word@{ip}:8080",
    "{ip}:8080@10.77.0.2:8080",
    "10.77.0.2:8080@{ip}:8080",
    "[{ip}]:8080",
    "{ip}%eth0:8080",
    "{ip}.:8080",
    "{ip}:8080,{ip}:8080",
    "{ip}:8080;x",
    "{ip}:8080 ",
    " {ip}:8080",
    "{ip}:80 80",
    "{ip}:8080\0",
    "{ip}\0:8080",
    "{ip}:8080\r\nx: y",
    "010.077.000.001:8080",
    "10.77.1:8080",
    "172818433:8080",
    "0x0a4d0001:8080",
    "10.77.0.1:\uff18\uff10\uff18\uff10",
    "%31%30.77.0.1:8080",
]


def corpus(ip: str) -> list[str]:
    return [*FOREIGN, *(f"{ip}:{port}" for port in WRONG_PORT), *(form.format(ip=ip) for form in WRONG_FORM)]


def test_every_authority_but_the_pod_s_own_is_400_and_nobody_hears_of_it(target: Victim) -> None:
    with server(target.served.side, echo) as seen, target.peer() as peer:
        for authority in corpus(target.served.address):
            assert peer.ask(authority) == 400, repr(authority)
        assert (heard_of(target.served.side, seen), target.questions()) == ([], [])
        # The peer was refused streams, not its connection: what is right is served on the same one.
        assert peer.ask(target.backend) == 200
        # The answer may come before the backend has accepted.
        until(lambda: len(heard_of(target.served.side, seen)) == 1)


def test_an_ipv6_authority_is_held_to_the_same(target: Victim) -> None:
    ip = target.served.address6
    with server(target.served.side, echo, family=socket.AF_INET6), target.peer() as peer:
        for wrong in (
            f"{ip}:8080",
            f"[{ip}%1]:8080",
            f"[{ip}%eth0]:8080",
            f"[{ip}:8080",
            f"{ip}]:8080",
            f"[[{ip}]]:8080",
            f"[{ip}]8080",
            f"[{ip}]",
        ):
            assert peer.ask(wrong) == 400, wrong
        assert target.questions() == []
        assert peer.ask(f"[{ip}]:{BACKEND_PORT}") == 200


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b":scheme", b"http")], "a scheme"),
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b":path", b"/")], "a path"),
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b":protocol", b"websocket")], "a protocol"),
        ([(b":method", b"GET"), (b":authority", b"%"), (b":scheme", b"http"), (b":path", b"/")], "a GET"),
        ([(b":method", b"connect"), (b":authority", b"%")], "a method in lower case"),
        ([(b":method", b"CONNECT"), (b":method", b"CONNECT"), (b":authority", b"%")], "two methods"),
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b":authority", b"10.77.0.2:80")], "two authorities"),
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b"host", b"10.77.0.2:80")], "another host"),
        ([(b":method", b"CONNECT"), (b"x", b"y"), (b":authority", b"%")], "an authority behind other fields"),
        ([(b":method", b"CONNECT")], "no authority"),
        ([(b":method", b"CONNECT"), (b":authority", b"")], "an empty authority"),
        ([(b":authority", b"%")], "no method"),
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b"Upper", b"case")], "a name in upper case"),
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b"transfer-encoding", b"chunked")], "a field of the connection"),
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b"x", b"a\nb")], "a value with a newline"),
        ([(b":method", b"CONNECT"), (b":authority", b"%"), (b":status", b"200")], "a status"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_requests_that_two_readers_could_take_differently_are_400(target: Victim, fields: list[tuple[bytes, bytes]], what: str) -> None:
    own = target.backend.encode()
    fields = [(name, own if value == b"%" else value) for name, value in fields]
    with server(target.served.side, echo) as seen, target.peer() as peer:
        stream = peer.next_stream()
        peer.send(frames.headers(stream, frames.block(fields)))
        assert peer.status(stream) == 400, what
        assert (heard_of(target.served.side, seen), target.questions()) == ([], [])
        assert peer.is_open()


CLAIMS = [
    (b"forwarded", b'for="10.9.9.9:80"'),
    (b"forwarded", b"for=unknown;by=_hidden;proto=https"),
    (b"x-forwarded-for", b"10.9.9.9"),
    (b"x-real-ip", b"10.9.9.9"),
    (b"x-forwarded-client-cert", b"By=spiffe://cluster.local/ns/test/sa/admin;URI=spiffe://cluster.local/ns/test/sa/admin"),
    (b"baggage", b"k8s.namespace.name=admin,service.name=admin,k8s.cluster.name=other"),
    (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    (b"authorization", b"Bearer admin"),
]


def test_what_a_peer_claims_changes_neither_the_question_nor_the_source(target: Victim) -> None:
    address = target.stranger.addresses[socket.AF_INET]
    target.served.script.verdict = lambda asked: Judgement(allow=asked.peer == identity_of("client") and asked.source == address)
    with server(target.served.side, echo) as seen, target.peer() as honest, target.peer("other") as other:
        for claim in CLAIMS:
            assert honest.ask(target.backend, claim) == 200, claim
            assert other.ask(target.backend, claim) == 401, claim
        assert set(heard_of(target.served.side, seen)) == {address}
    assert {(one.peer, one.source) for one in target.questions()} == {(identity_of("client"), address), (identity_of("other"), address)}
    until(lambda: len(target.served.agent.closed) == 2 * len(CLAIMS))
    assert {entry.source.rpartition(":")[0] for entry in target.served.agent.closed} == {address}
    assert {entry.source_identity for entry in target.served.agent.closed} == {identity_of("client"), identity_of("other")}


def _ask_early(target: Victim, peer: Peer, gate: threading.Event, *, allow: bool) -> int:
    """Sends a request and data at once while the agent thinks; returns the stream when the question is there."""

    def judge(_: object) -> Judgement:
        assert gate.wait(5)
        return Judgement(allow=allow)

    target.served.script.verdict = judge
    stream = peer.open(target.backend, then=b"ahead of the answer")
    until(lambda: len(target.questions()) == 1)
    # Behind this frame all that was sent before has been read.
    assert peer.is_open()
    return stream


def test_data_ahead_of_the_verdict_waits_for_it(target: Victim) -> None:
    gate = threading.Event()
    with server(target.served.side, echo) as seen, target.peer() as peer:
        stream = _ask_early(target, peer, gate, allow=True)
        assert heard_of(target.served.side, seen) == []
        assert not [one for one in peer.received if one.kind in {Kind.HEADERS, Kind.DATA}]
        gate.set()
        assert peer.status(stream) == 200
        answer = peer.wait_for(lambda one: one.kind == Kind.DATA)
        assert answer.payload == b"ahead of the answer"
        assert peer.echo(stream, b"and behind it")


def test_data_ahead_of_a_denial_is_never_delivered(target: Victim) -> None:
    gate = threading.Event()
    with server(target.served.side, echo) as seen, target.peer() as peer:
        stream = _ask_early(target, peer, gate, allow=False)
        gate.set()
        assert peer.status(stream) == 401
        assert heard_of(target.served.side, seen) == []
        assert peer.is_open()
