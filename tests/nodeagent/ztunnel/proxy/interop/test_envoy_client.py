"""Envoy opens tunnels, our proxy serves them: bytes, ends, statuses and identities are as Envoy expects them."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.ztunnel.protocol import AskVerdict, Revocation, Settings, SetTrust, Via
from tests.nodeagent.pods import pair, refused
from tests.nodeagent.ztunnel.proxy.attacks.victim import heard_of
from tests.nodeagent.ztunnel.proxy.authority import Authority
from tests.nodeagent.ztunnel.proxy.interop.envoy import TCP_PORT, Credentials, Envoy, client_config, envoy, http_connect
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Node, echo, exchange, identity_of, node, server
from tests.nodeagent.ztunnel.proxy.stub import Judgement, until

CLIENT = identity_of("envoy")


@dataclass
class Scene:
    envoy: Envoy
    server: Node
    authority: Authority

    def dial(self) -> socket.socket:
        return self.envoy.side.dial("127.0.0.1", TCP_PORT, timeout_s=10)


@contextmanager
def scene(
    directory: Path, *, issuer: Authority | None = None, accept: str = identity_of("server"), settings: Settings | None = None
) -> Iterator[Scene]:
    """An Envoy with a certificate of `issuer` (ours unless said) that accepts the server as `accept`, and a pod that we serve."""
    authority = Authority()
    with pair() as sides, node("server", sides.pod, directory, authority, settings or Settings(), workers=2) as served:
        credentials = Credentials((issuer or authority).issue(CLIENT), authority.root_pem, (accept,))
        config = client_config(credentials, served.address, f"{served.address}:{BACKEND_PORT}")
        with envoy(sides.client, directory, config) as running:
            yield Scene(running, served, authority)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as made:
        yield made


def test_bulk_both_ways_is_byte_exact_and_the_peer_is_who_its_certificate_says(both: Scene) -> None:
    data = os.urandom(32 << 20)
    with server(both.server.side, echo) as seen, both.dial() as connection:
        assert exchange(connection, data) == data
    assert seen == [both.envoy.side.addresses[socket.AF_INET]], "the application sees the client's address"
    (asked,) = both.server.agent.questions(AskVerdict)
    assert isinstance(asked, AskVerdict)
    assert (asked.via, asked.peer) == (Via.HBONE, CLIENT)
    until(lambda: bool(both.server.agent.closed))
    entry = both.server.agent.closed[0]
    assert (entry.sent_bytes, entry.received_bytes, entry.flag) == (len(data), len(data), None)


def test_many_streams_share_one_connection(both: Scene) -> None:
    with server(both.server.side, echo):
        connections = [both.dial() for _ in range(90)]
        for index, connection in enumerate(connections):
            connection.sendall(f"{index:04}".encode() * 5000)
        for index, connection in enumerate(connections):
            assert _exactly(connection, 20000) == f"{index:04}".encode() * 5000
        status = both.server.agent.report()
        assert (status.connections, status.tunnels_in) == (90, 1)
        for connection in connections:
            connection.close()
        until(lambda: both.server.agent.report().connections == 0)


def test_more_streams_than_we_allow_come_over_another_connection(tmp_path: Path) -> None:
    with scene(tmp_path, settings=Settings(max_streams_per_tunnel=10)) as both, server(both.server.side, echo), both.dial() as first:
        # From its first answer on Envoy knows how many streams we take.
        first.sendall(b"here")
        assert _exactly(first, 4) == b"here"
        with ExitStack() as stack:
            rest = [stack.enter_context(both.dial()) for _ in range(24)]
            for connection in rest:
                connection.sendall(b"here")
            assert [_exactly(connection, 4) for connection in rest] == [b"here"] * 24
            assert both.server.agent.report().tunnels_in == 3


@pytest.mark.parametrize("first", ["client", "application"])
def test_half_close_travels_both_ways(both: Scene, first: str) -> None:
    def to_the_end(connection: socket.socket) -> bytes:
        received = b""
        while part := connection.recv(4096):
            received += part
        return received

    got: list[bytes] = []

    def answer_after_the_end(connection: socket.socket) -> None:
        connection.sendall(b"got " + to_the_end(connection))

    def end_and_read_on(connection: socket.socket) -> None:
        connection.sendall(b"that is all")
        connection.shutdown(socket.SHUT_WR)
        got.append(to_the_end(connection))

    with server(both.server.side, answer_after_the_end if first == "client" else end_and_read_on), both.dial() as connection:
        if first == "client":
            assert exchange(connection, b"all of it") == b"got all of it"
        else:
            assert to_the_end(connection) == b"that is all"
            connection.sendall(b"late word")
            connection.shutdown(socket.SHUT_WR)
            until(lambda: got == [b"late word"])
    until(lambda: both.server.agent.report().connections == 0)


def test_a_client_that_resets_ends_the_application_s_connection(both: Scene) -> None:
    ended = threading.Event()

    def until_the_end(connection: socket.socket) -> None:
        try:
            while connection.recv(4096):
                pass
        finally:
            ended.set()

    with server(both.server.side, until_the_end) as seen, both.dial() as connection:
        connection.sendall(b"begin")
        until(lambda: bool(seen))
        _reset(connection)
        assert ended.wait(5)
    until(lambda: both.server.agent.report().connections == 0)


def test_an_application_that_resets_ends_the_client_s_connection_alone(both: Scene) -> None:
    def reset_or_echo(connection: socket.socket) -> None:
        while data := connection.recv(4096):
            if data == b"reset":
                _reset(connection)
                return
            connection.sendall(data)

    with server(both.server.side, reset_or_echo), both.dial() as stays, both.dial() as broken:
        for connection in (stays, broken):
            connection.sendall(b"here")
            assert _exactly(connection, 4) == b"here"
        broken.sendall(b"reset")
        assert refused(lambda: broken.recv(1)) or broken.recv(1) == b""
        stays.sendall(b"more")
        assert _exactly(stays, 4) == b"more"
        assert both.server.agent.report().tunnels_in == 1


def test_envoy_sees_the_status_of_each_refusal(both: Scene) -> None:
    address = both.server.address
    closed_port = BACKEND_PORT + 1
    both.server.script.verdict = lambda asked: Judgement(allow=not asked.destination.endswith(":81"))
    with server(both.server.side, echo) as seen:
        for authority, status in (
            (f"{address}:{BACKEND_PORT}", 200),
            (f"{address}:81", 401),
            (f"{address}:{closed_port}", 503),
            ("10.77.0.9:8080", 400),
            ("127.0.0.1:8080", 400),
            (f"{address}:15006", 400),
            ("server.test.svc.cluster.local:8080", 400),
        ):
            answered, connection = http_connect(both.envoy.side, authority)
            connection.close()
            assert answered == status, authority
        until(lambda: len(seen) == 1)
    assert both.server.agent.report().tunnels_in == 1, "a refusal costs its stream, not the connection"
    until(lambda: len(both.server.agent.closed) == 7)
    assert [entry.flag for entry in both.server.agent.closed] == [None, "UAEX", "UF", "DPE", "DPE", "DPE", "DPE"]


def test_a_client_under_a_foreign_root_is_refused(tmp_path: Path) -> None:
    with scene(tmp_path, issuer=Authority("foreign root")) as both, server(both.server.side, echo) as seen, both.dial() as connection:
        connection.sendall(b"let me in")
        assert refused(lambda: connection.recv(1)) or connection.recv(1) == b""
        assert heard_of(both.server.side, seen) == []
        assert both.server.agent.questions(AskVerdict) == []
        until(lambda: "SI:" in (both.server.directory / "proxy.log").read_text())


def test_envoy_refuses_us_if_it_expects_another(tmp_path: Path) -> None:
    with scene(tmp_path, accept=identity_of("another")) as both, server(both.server.side, echo) as seen, both.dial() as connection:
        assert refused(lambda: connection.recv(1)) or connection.recv(1) == b""
        assert heard_of(both.server.side, seen) == []
        until(lambda: both.envoy.stat("cluster.hbone.ssl.fail_verify_san") >= 1)


def test_a_revoked_envoy_loses_its_open_tunnels_and_gets_no_new_ones(both: Scene) -> None:
    with server(both.server.side, echo), both.dial() as connection:
        connection.sendall(b"here")
        assert _exactly(connection, 4) == b"here"
        trust = both.server.script.trust
        both.server.agent.send(SetTrust(roots=trust.roots, revoked=(Revocation(identity=CLIENT, issued_before_s=1 << 33),)))
        connection.settimeout(1)
        assert refused(lambda: connection.recv(1)) or connection.recv(1) == b""
        assert both.server.agent.report().tunnels_in == 0
        with both.dial() as again:
            assert refused(lambda: again.recv(1)) or again.recv(1) == b""


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        assert part, f"the connection ended after {len(received)} bytes"
        received += part
    return received


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
