"""A tunnel is only ever used between the two identities that it was opened for, and ends with what it was trusted for."""

import socket
import ssl
from pathlib import Path

import pytest

from nodeagent.ztunnel.protocol import AskRoute, AskVerdict, Endpoint, ForgetIdentity, Forward, Revocation, SetTrust, Tunnel
from tests.nodeagent.pods import refused
from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.peer import Peer, client_context
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, heard_of
from tests.nodeagent.ztunnel.proxy.authority import Authority
from tests.nodeagent.ztunnel.proxy.mesh import Mesh, echo, identity_of, mesh, server
from tests.nodeagent.ztunnel.proxy.stub import attributes, until

OTHER = identity_of("other")
EXPECTED = identity_of("server")


def _route(asked: AskRoute, both: Mesh) -> Forward:
    """By port: 1 as the client, 2 as another of its node, 3 to somebody that the server is not, 4 as one that we have no key of."""
    address, port = both.server.address, asked.destination.rpartition(":")[2]
    identity = {"2": OTHER, "4": identity_of("unknown")}.get(port, identity_of("client"))
    tunnel = Tunnel(identity=identity, authority=asked.destination, expect=(OTHER if port == "3" else EXPECTED,))
    return Forward(endpoints=(Endpoint(uid="server", address=f"{address}:15008", attributes=attributes(), tunnel=tunnel),))


@pytest.fixture
def both(tmp_path: Path) -> object:
    with mesh(tmp_path, workers=1) as made:
        made.client.script.identities.append(made.authority.issue(OTHER))
        made.client.restart_agent()
        made.client.script.route = lambda asked: _route(asked, made)
        yield made


def _is_reset(both: Mesh, port: int) -> bool:
    """Some resets come before the dial has returned."""

    def dial_and_read() -> bytes:
        with both.client.side.dial(both.server.address, port) as connection:
            return connection.recv(1)

    return refused(dial_and_read)


def test_a_pooled_tunnel_serves_no_other_source_and_no_other_destination(both: Mesh) -> None:
    with (
        server(both.server.side, echo, port=1),
        server(both.server.side, echo, port=2) as second,
        server(both.server.side, echo, port=3) as third,
    ):
        for _ in range(2):
            with both.client.side.dial(both.server.address, 1) as connection:
                connection.sendall(b"who am I?")
                assert connection.recv(100) == b"who am I?"
        assert both.client.agent.report().tunnels_out == 1
        # The tunnel that is there leads to the right address, but not to whom this route expects; nor as whom the others want to be,
        # who are somebody else than this pod, with or without a key of theirs on the node.
        assert _is_reset(both, 2)
        assert _is_reset(both, 3)
        assert _is_reset(both, 4)
        assert (second, third) == ([], [])
    asked = [one for one in both.server.agent.questions(AskVerdict) if isinstance(one, AskVerdict)]
    assert {(one.destination.rpartition(":")[2], one.peer) for one in asked} == {("1", identity_of("client"))}
    until(lambda: len(both.client.agent.closed) == 5)
    ended = {(entry.destination.rpartition(":")[2], entry.flag) for entry in both.client.agent.closed}
    assert ended == {("1", None), ("2", "NR"), ("3", "SI"), ("4", "NR")}


def test_an_identity_that_is_forgotten_opens_no_tunnel(both: Mesh) -> None:
    both.client.agent.send(ForgetIdentity(identity=identity_of("client")))
    both.client.agent.report()
    with server(both.server.side, echo, port=1) as seen:
        assert _is_reset(both, 1)
        assert seen == []


@pytest.mark.parametrize("change", ["root removed", "no root left", "root unreadable", "identity revoked", "revoked beside nonsense"])
def test_withdrawn_trust_ends_the_tunnel_within_a_second_and_admits_no_new_one(target: Victim, change: str) -> None:
    roots = target.served.script.trust.roots
    revoked = Revocation(identity=identity_of("client"), issued_before_s=1 << 33)
    withdrawn = {
        "root removed": SetTrust(roots={"cluster.local": Authority("another root").root_pem}),
        "no root left": SetTrust(roots={"cluster.local": ""}),
        "root unreadable": SetTrust(
            roots={"cluster.local": target.authority.issue(identity_of("no authority")).chain.partition("-----END")[0]}
        ),
        "identity revoked": SetTrust(roots=roots, revoked=(revoked,)),
        "revoked beside nonsense": SetTrust(
            roots={**roots, "Upper.Case": roots["cluster.local"], "other": "garbage"},
            revoked=(Revocation(identity="spiffe://nobody", issued_before_s=1), revoked),
        ),
    }[change]
    with server(target.served.side, echo), target.peer() as peer, target.peer("bystander") as bystander:
        streams = [(one, one.open(target.backend)) for one in (peer, bystander)]
        assert [one.status(stream) for one, stream in streams] == [200, 200]
        # A connection from before is judged by what is in force when its certificate comes.
        with target.dial() as begun:
            target.served.agent.send(withdrawn)
            assert peer.goaway(within_s=1) == 0
            assert _is_turned_away(begun, target.context())
        assert _is_turned_away(target.dial(), target.context())
        if revoked in withdrawn.revoked:
            assert bystander.echo(streams[1][1], b"not mine")
        target.served.agent.send(SetTrust(roots=roots))
        with target.peer("client") as again:
            assert again.ask(target.backend) == 200


def _is_turned_away(connection: socket.socket, context: ssl.SSLContext) -> bool:
    """Whether the victim ends it before HTTP/2 begins. A client in TLS 1.3 may be through its handshake before it is judged."""
    try:
        Peer.over(connection, context).greet().close()
    except OSError as error:
        return not isinstance(error, TimeoutError)
    return False


def test_a_server_gives_no_session_tickets(target: Victim) -> None:
    with target.peer() as peer:
        assert peer.is_open()
        assert peer.connection.session is None or not peer.connection.session.has_ticket
        assert not peer.connection.session_reused


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2c",)], ids=["none", "http/1.1", "h2c"])
def test_another_protocol_gets_nothing(target: Victim, alpn: tuple[str, ...]) -> None:
    context = client_context(target.directory, target.authority.issue(identity_of("client")), alpn=alpn)
    assert _is_turned_away(target.dial(), context)
    until(lambda: target.served.agent.report().tunnels_in == 0)
    assert target.questions() == []


@pytest.mark.parametrize("kind", ["plaintext preface", "plaintext behind the hello", "tls 1.2"])
def test_what_is_not_tls_1_3_delivers_nothing(target: Victim, kind: str) -> None:
    request = (
        frames.PREFACE + frames.settings() + frames.headers(1, frames.connect_block(target.backend.encode())) + frames.data(1, b"secret")
    )
    with server(target.served.side, echo) as seen, target.dial(timeout_s=2) as connection:
        if kind == "tls 1.2":
            context = target.context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(connection)
        else:
            hello = _client_hello(target) if kind == "plaintext behind the hello" else b""
            connection.sendall(hello + request)
            _read_to_the_end(connection)
        until(lambda: target.served.agent.report().tunnels_in == 0)
        assert (heard_of(target.served.side, seen), target.questions()) == ([], [])


def _client_hello(target: Victim) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        target.context().wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def _read_to_the_end(connection: socket.socket) -> None:
    """Fails with TimeoutError if the end does not come."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
