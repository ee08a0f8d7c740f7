"""Our proxy opens tunnels, Envoy serves them: bytes, ends and refusals; an Envoy that drains or restarts costs no connection."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nodeagent.ztunnel.protocol import AskRoute, Endpoint, Forward, Settings, Tunnel
from tests.nodeagent.pods import pair, refused
from tests.nodeagent.ztunnel.proxy.attacks.victim import heard_of
from tests.nodeagent.ztunnel.proxy.authority import Authority
from tests.nodeagent.ztunnel.proxy.interop.envoy import HBONE_PORT, Credentials, Envoy, envoy, server_config
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Node, echo, exchange, identity_of, node, server
from tests.nodeagent.ztunnel.proxy.stub import until

SERVER = identity_of("envoy")


@dataclass
class Scene:
    client: Node
    envoy: Envoy
    authority: Authority

    def dial(self) -> socket.socket:
        return self.client.side.dial(self.envoy.side.addresses[socket.AF_INET], BACKEND_PORT, timeout_s=10)


@contextmanager
def scene(directory: Path, *, issuer: Authority | None = None, accept: str = identity_of("client"), **options: Any) -> Iterator[Scene]:
    """A pod that we serve, and an Envoy with a certificate of `issuer` (ours unless said) that accepts the client as `accept`."""
    authority = Authority()
    with pair() as sides, node("client", sides.client, directory, authority, Settings(), workers=1) as served:
        address = sides.pod.addresses[socket.AF_INET]
        served.script.route = lambda asked: _to_envoy(asked, f"{address}:{HBONE_PORT}", (SERVER,))
        credentials = Credentials((issuer or authority).issue(SERVER), authority.root_pem, (accept,))
        with envoy(sides.pod, directory, server_config(credentials, address, BACKEND_PORT, **options)) as running:
            yield Scene(served, running, authority)


def _to_envoy(asked: AskRoute, address: str, expect: tuple[str, ...]) -> Forward:
    tunnel = Tunnel(identity=identity_of("client"), authority=asked.destination, expect=expect)
    return Forward(endpoints=(Endpoint(uid="envoy", address=address, attributes={}, tunnel=tunnel),))


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as made:
        yield made


def test_bulk_both_ways_is_byte_exact(both: Scene) -> None:
    data = os.urandom(32 << 20)
    with server(both.envoy.side, echo), both.dial() as connection:
        assert exchange(connection, data) == data
    until(lambda: bool(both.client.agent.closed))
    entry = both.client.agent.closed[0]
    assert (entry.sent_bytes, entry.received_bytes, entry.flag) == (len(data), len(data), None)
    assert entry.destination_identity == SERVER


def test_many_streams_share_one_connection(both: Scene) -> None:
    with server(both.envoy.side, echo):
        connections = [both.dial() for _ in range(90)]
        for index, connection in enumerate(connections):
            connection.sendall(f"{index:04}".encode() * 5000)
        for index, connection in enumerate(connections):
            assert _exactly(connection, 20000) == f"{index:04}".encode() * 5000
        assert both.client.agent.report().tunnels_out == 1
        for connection in connections:
            connection.close()
    until(lambda: both.client.agent.report().connections == 0)


def test_half_close_of_the_client_travels(both: Scene) -> None:
    def answer_after_the_end(connection: socket.socket) -> None:
        connection.sendall(b"got " + _to_the_end(connection))

    with server(both.envoy.side, answer_after_the_end), both.dial() as connection:
        assert exchange(connection, b"all of it") == b"got all of it"
    until(lambda: both.client.agent.report().connections == 0)


def test_what_an_application_sent_before_it_closed_arrives_in_full(both: Scene) -> None:
    """Envoy takes no more once its application has ended: it resets the stream behind the last byte."""
    data = os.urandom(1 << 20)
    with server(both.envoy.side, lambda connection: connection.sendall(data)), both.dial() as connection:
        assert _to_the_end(connection) == data
        until(lambda: both.client.agent.report().connections == 0)


def test_resets_travel_both_ways_and_cost_no_other_stream(both: Scene) -> None:
    ended: list[int] = []

    def reset_or_echo(connection: socket.socket) -> None:
        try:
            while data := connection.recv(4096):
                if data == b"reset":
                    return _reset(connection)
                connection.sendall(data)
        finally:
            ended.append(1)

    with server(both.envoy.side, reset_or_echo), both.dial() as stays, both.dial() as by_application, both.dial() as by_client:
        for connection in (stays, by_application, by_client):
            connection.sendall(b"here")
            assert _exactly(connection, 4) == b"here"
        by_application.sendall(b"reset")
        assert refused(lambda: by_application.recv(1)) or by_application.recv(1) == b""
        until(lambda: len(ended) == 1)
        _reset(by_client)
        until(lambda: len(ended) == 2)
        stays.sendall(b"more")
        assert _exactly(stays, 4) == b"more"
        assert both.client.agent.report().tunnels_out == 1


@pytest.mark.parametrize(("status", "flag"), [(401, "UAEX"), (403, "UAEX"), (404, "UF"), (503, "UF")])
def test_what_envoy_answers_is_what_is_logged(tmp_path: Path, status: int, flag: str) -> None:
    with scene(tmp_path, refusal=status) as both, both.dial() as connection:
        assert _is_reset(connection)
        until(lambda: bool(both.client.agent.closed))
        assert both.client.agent.closed[0].flag == flag


def test_an_application_that_is_down_is_a_failure_not_a_silence(both: Scene) -> None:
    with both.dial() as connection:
        assert _is_reset(connection)
    until(lambda: bool(both.client.agent.closed))
    assert both.client.agent.closed[0].flag == "UF"


def test_an_envoy_that_drains_loses_no_stream_and_new_ones_go_elsewhere(tmp_path: Path) -> None:
    with scene(tmp_path, max_requests_per_connection=5) as both, server(both.envoy.side, echo):
        connections = [both.dial() for _ in range(5)]
        for connection in connections:
            connection.sendall(b"here")
            assert _exactly(connection, 4) == b"here"
        until(
            lambda: (
                both.envoy.stat("http.http.downstream_cx_drain_close") + both.envoy.stat("http.http.downstream_cx_max_requests_reached") > 0
            )
        )
        # Behind the GOAWAY: the five go on, the next come through a tunnel of their own.
        connections += [both.dial() for _ in range(8)]
        for connection in connections:
            connection.sendall(b"again")
            assert _exactly(connection, 5) == b"again"
        assert both.client.agent.report().tunnels_out >= 2
        for connection in connections:
            connection.close()
        until(lambda: len(both.client.agent.closed) == 13)
        assert [entry.flag for entry in both.client.agent.closed] == [None] * 13


def test_streams_opened_while_envoy_drains_by_age_all_succeed(tmp_path: Path) -> None:
    """Every connection of Envoy's gets its GOAWAY after 300 ms (less, and a slow handshake would meet its bare end), amid these streams."""
    with scene(tmp_path, max_connection_duration="0.3s") as both, server(both.envoy.side, echo):

        def open_some_and_count() -> int:
            for index in range(50):
                with both.dial() as connection:
                    word = f"{index:04}".encode()
                    connection.sendall(word)
                    assert _exactly(connection, 4) == word
            return both.envoy.stat("http.http.downstream_cx_max_duration_reached")

        until(lambda: open_some_and_count() >= 3, deadline_s=15)


def test_an_envoy_that_restarts_under_pooled_tunnels_costs_no_new_connection(both: Scene) -> None:
    with server(both.envoy.side, echo):
        for _ in range(3):
            with both.dial() as open_one:
                open_one.sendall(b"here")
                assert _exactly(open_one, 4) == b"here"
                both.envoy.kill()
                assert _is_reset(open_one)
            both.envoy.start()
            with both.dial() as after:
                after.sendall(b"here")
                assert _exactly(after, 4) == b"here"


def test_a_server_that_is_somebody_else_gets_nothing(both: Scene) -> None:
    address = both.envoy.side.addresses[socket.AF_INET]
    both.client.script.route = lambda asked: _to_envoy(asked, f"{address}:{HBONE_PORT}", (identity_of("another"),))
    with server(both.envoy.side, echo) as seen, both.dial() as connection:
        assert _is_reset(connection)
        assert heard_of(both.envoy.side, seen) == []
    until(lambda: bool(both.client.agent.closed))
    assert both.client.agent.closed[0].flag == "SI"
    assert both.envoy.stat("http.http.downstream_rq_total") == 0


def test_a_server_under_a_foreign_root_gets_nothing(tmp_path: Path) -> None:
    with scene(tmp_path, issuer=Authority("foreign root")) as both, both.dial() as connection:
        assert _is_reset(connection)
        until(lambda: bool(both.client.agent.closed))
        assert both.client.agent.closed[0].flag == "SI"


def test_an_envoy_that_refuses_us_is_a_failure_not_a_silence(tmp_path: Path) -> None:
    with scene(tmp_path, accept=identity_of("another")) as both, both.dial() as connection:
        assert _is_reset(connection)
        until(lambda: bool(both.client.agent.closed))
        assert both.client.agent.closed[0].flag == "SI"


def _is_reset(connection: socket.socket) -> bool:
    try:
        connection.recv(1)
    except ConnectionResetError:
        return True
    return False


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        assert part, f"the connection ended after {len(received)} bytes"
        received += part
    return received


def _to_the_end(connection: socket.socket) -> bytes:
    received = bytearray()
    while part := connection.recv(65536):
        received += part
    return bytes(received)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
