"""How connections through a real waypoint end: by either side, in order or not, and what ends them from outside."""

import socket
from collections.abc import Iterator

import pytest

from demo import manifests, waypoint
from demo.waypoint import Waypoint
from tests.e2e import closing_server
from tests.e2e.mesh import Mesh

VIP = "10.96.0.30"
HTTP_PORT, TCP_PORT, UNSAID_PORT, FIRST_PORT = 80, 90, 91, 92
LONG = 300_000


@pytest.fixture(scope="module")
def gate(mesh: Mesh) -> Iterator[Waypoint]:
    with waypoint.running(mesh.cluster) as made:
        yield made


@pytest.fixture(scope="module")
def closing(mesh: Mesh, gate: Waypoint) -> Iterator[None]:
    """A service of one pod, bound to the waypoint."""
    pod = mesh.add_pod("n2", "closing", service_account="api", app="closing")
    named = {"http": HTTP_PORT, "tcp-said": TCP_PORT, "unsaid": UNSAID_PORT}
    ports = [{"name": name, "port": port, "targetPort": closing_server.PORT} for name, port in named.items()]
    service = manifests.service("closing", app="closing", vips=(VIP,), spec={"ports": ports})
    service["metadata"]["labels"] = {"istio.io/use-waypoint": gate.name}
    try:
        with closing_server.serving(pod), mesh.applied("closing", service):
            mesh.wait(lambda: asked(mesh, TCP_PORT, "close-5") == (b"xxxxx", True), "the service to be reached", timeout_s=30)
            yield
    finally:
        mesh.remove_pod(pod)


def asked(mesh: Mesh, port: int, line: str, *, end: bool = False, then: bytes = b"") -> tuple[bytes, bool]:
    """All that came back, and whether that ended in order. `end`: our side ends first; `then` is said behind the first bytes."""
    got = bytearray()
    try:
        with mesh.dial(mesh.pods["shop"], VIP, port, timeout_s=10) as connection:
            connection.sendall(f"{line}\n".encode())
            if end:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                got += part
                if then:
                    connection.sendall(then)
                    then = b""
    except OSError:
        return bytes(got), False
    return bytes(got), True


@pytest.mark.parametrize("size", [10, LONG])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_answer_behind_which_the_connection_is_closed(mesh: Mesh, closing: None, version: str, size: int) -> None:
    for port in (HTTP_PORT, UNSAID_PORT):
        head = f"GET /close-{size} HTTP/{version}\r\nhost: closing\r\nconnection: close\r\n\r"
        answer, in_order = asked(mesh, port, head)
        assert answer.startswith(f"HTTP/{version} 200".encode())
        assert in_order
        assert answer.count(b"x" * 10) >= size // 10 - 40  # chunked: lengths are between
    answer, in_order = asked(mesh, HTTP_PORT, f"GET /close-{size} HTTP/1.0\r\n\r")
    assert (answer[:12], in_order) == (b"HTTP/1.0 200", True), "of no host"


def test_tcp_ends_as_its_sides_end_it(mesh: Mesh, closing: None) -> None:
    for port in (TCP_PORT, UNSAID_PORT):
        for how in ("close", "shut"):
            assert asked(mesh, port, f"{how}-{LONG}") == (b"x" * LONG, True), (port, how)
        assert asked(mesh, port, "reset-10", then=b"go on\n")[1] is False, "what was broken off is no end in order"
    assert asked(mesh, TCP_PORT, f"half-{LONG}", end=True) == (b"x" * LONG, True)
