"""How connections through a real waypoint end: by either side, in order or not, and what ends them from outside."""

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from control.ca.own_root import make_root
from control.envoy.listeners.waypoint import SNIFF_TIMEOUT_S
from demo import manifests, waypoint
from demo.cluster import TRUST_DOMAIN
from demo.manifests import Manifest
from demo.waypoint import HBONE_PORT, Waypoint
from tests.e2e import closing_server
from tests.e2e.client_certificate import taken
from tests.e2e.mesh import ECHO, HTTP, Mesh, closed_after, echoes, spiffe
from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind
from tests.nodeagent.ztunnel.proxy.attacks.peer import Ended, Peer, client_context

VIP = "10.96.0.30"
HTTP_PORT, TCP_PORT, UNSAID_PORT = 80, 90, 91
KEPT_PORT = HTTP
MYSQL_PORT, FIRST_PORT = 3306, 3307
LONG = 300_000
CHANGES = 20
STATUS_401 = b"\x48\x82\x68\x01"
"""As Envoy packs it (HPACK, Huffman)."""


@pytest.fixture(scope="module")
def gate(mesh: Mesh) -> Iterator[Waypoint]:
    with waypoint.running(mesh.cluster) as made:
        yield made


@pytest.fixture(scope="module")
def closing(mesh: Mesh, gate: Waypoint) -> Iterator[None]:
    """A service of one pod, bound to the waypoint."""
    pod = mesh.add_pod("n2", "closing", service_account="api", app="closing")
    named = {"http": HTTP_PORT, "tcp-said": TCP_PORT, "unsaid": UNSAID_PORT}
    ports: list[dict[str, object]] = [{"name": name, "port": port, "targetPort": closing_server.PORT} for name, port in named.items()]
    ports += [{"name": "http-kept", "port": KEPT_PORT}, {"name": "tcp-echo", "port": ECHO}]
    ports += [{"name": "db", "port": MYSQL_PORT}, {"name": "first", "port": FIRST_PORT, "targetPort": MYSQL_PORT}]
    service = manifests.service("closing", app="closing", vips=(VIP,), spec={"ports": ports})
    service["metadata"]["labels"] = {"istio.io/use-waypoint": gate.name}
    try:
        with closing_server.serving(pod), closing_server.serving(pod, greeting=True, port=MYSQL_PORT), mesh.applied("closing", service):
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


def test_a_server_that_speaks_first(mesh: Mesh, closing: None) -> None:
    """At a port that is known for it nobody waits for the client; at others not for long."""

    def heard(port: int) -> float:
        """How long the greeting took."""
        with mesh.dial(mesh.pods["shop"], VIP, port, timeout_s=15) as connection:
            began_s = time.monotonic()
            assert connection.recv(100) == closing_server.GREETING
            return time.monotonic() - began_s

    assert min(heard(MYSQL_PORT) for _ in range(3)) < SNIFF_TIMEOUT_S
    assert heard(FIRST_PORT) > SNIFF_TIMEOUT_S / 2


class Kept:
    """Requests one after the other on one connection that is kept, from a thread of its own."""

    def __init__(self) -> None:
        self.answered = 0
        self.failure = ""


@contextmanager
def kept(mesh: Mesh) -> Iterator[Kept]:
    found, over = Kept(), threading.Event()
    connection = http.client.HTTPConnection(VIP, KEPT_PORT, timeout=10)
    connection.sock = mesh.dial(mesh.pods["shop"], VIP, KEPT_PORT, timeout_s=10)
    connection.auto_open = 0

    def run() -> None:
        try:
            while not over.is_set():
                connection.request("GET", "/kept")
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, answer.status
                found.answered += 1
        except (OSError, http.client.HTTPException, AssertionError) as error:
            found.failure = repr(error)

    thread = threading.Thread(target=run, name="requests on a connection that is kept")
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        connection.close()


def deny(path: str) -> Manifest:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "closing", "namespace": "default"},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "closing"}],
            "action": "DENY",
            "rules": [{"to": [{"operation": {"ports": [str(KEPT_PORT)], "paths": [path]}}]}],
        },
    }


def status(mesh: Mesh, path: str) -> int:
    """The answer to a request on a connection of its own; 0 without one."""
    with suppress(OSError, http.client.HTTPException), mesh.dial(mesh.pods["shop"], VIP, KEPT_PORT) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: closing\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        with answer:
            return answer.status
    return 0


def test_policies_change_under_requests_and_none_fails(mesh: Mesh, gate: Waypoint, closing: None) -> None:
    """That paths are judged at all is what changes how they are read, and so the chain: that comes first."""
    with mesh.applied("closing-policy", deny("/before")):
        mesh.wait(lambda: status(mesh, "/before") == 403, "the first policy", timeout_s=20)
        mesh.wait(lambda: gate.stat("listener_manager.total_filter_chains_draining") == 0, "its chain to stand alone", timeout_s=20)
        with kept(mesh) as one, mesh.stream(mesh.pods["shop"], VIP, port=KEPT_PORT) as new:
            for change in range(CHANGES):
                mesh.cluster.apply("closing-policy", [deny(f"/denied-{change}")])
                mesh.wait(lambda change=change: status(mesh, f"/denied-{change}") == 403, "the next policy", timeout_s=20)
                assert not one.failure
        assert one.answered > CHANGES
        assert len(new.calls) > CHANGES
        assert not one.failure
        assert not new.failed
        mesh.cluster.apply("closing-policy", [deny("/kept")])
        with kept(mesh) as one:
            mesh.wait(lambda: "403" in one.failure, "the next request on an open connection to be denied", timeout_s=20)
    mesh.wait(lambda: status(mesh, "/kept") == 200, "the policy to be gone", timeout_s=20)


def test_a_policy_that_becomes_another_actions_lets_nobody_in_meanwhile(mesh: Mesh, gate: Waypoint, closing: None) -> None:
    """DENY comes with the routes, CUSTOM with the chain; nobody can be asked here, so that both deny."""
    denying = deny("/closed")
    asking = {**denying, "spec": {**denying["spec"], "action": "CUSTOM", "provider": {"name": "nobody"}}}
    answers: Counter[int] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers[status(mesh, "/closed")] += 1

    with mesh.applied("closing-policy", denying):
        mesh.wait(lambda: status(mesh, "/closed") == 403, "the policy", timeout_s=20)
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for change in (asking, denying) * 4:
                mesh.cluster.apply("closing-policy", [change])
                seen = answers[403]
                mesh.wait(lambda seen=seen: answers[403] > seen + 100, "requests after the change", timeout_s=30)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert set(answers) <= {0, 403, 503}, answers


def test_a_revocation_ends_what_is_open(mesh: Mesh, gate: Waypoint, closing: None) -> None:
    """Whoever holds the certificate; others dial again."""

    def peer() -> Peer:
        return Peer.over(mesh.dial(mesh.outside, gate.pod.ipv4, HBONE_PORT), client_context(gate.directory, stolen)).greet()

    stolen = taken(mesh, gate, "shop")
    with peer() as thief, mesh.stream(mesh.pods["api-1"], VIP, port=KEPT_PORT) as others:
        stream = thief.open(f"{VIP}:{ECHO}")
        assert thief.status(stream) == 200
        thief.send(frames.data(stream, b"hello\n"))
        assert thief.wait_for(lambda one: one.kind == Kind.DATA).payload.endswith(b"hello\n")
        mesh.cluster.meshctl("revoke", spiffe("shop"))
        began_s = time.monotonic()
        try:
            with pytest.raises(Ended):
                thief.wait_for(lambda _: False, within_s=20)
            assert time.monotonic() - began_s < 10
            with peer() as again:
                stream = again.open(f"{VIP}:{ECHO}")
                assert again.wait_for(lambda one: one.stream == stream).payload.startswith(STATUS_401)
            mesh.wait(lambda: gate.stat("listener_manager.total_filter_chains_draining") == 0, "nothing to drain", timeout_s=20)
        finally:
            mesh.cluster.meshctl("revoke", spiffe("shop"), "--undo")
        mesh.wait(lambda: mesh.call(mesh.pods["shop"], VIP, KEPT_PORT).ok, "the client itself to recover", timeout_s=20)
    assert len(others.calls) > 10
    assert len(others.failed) <= 2, "what was under way when the tunnels ended: once for the revocation, once when it was taken back"
    assert echoes(mesh.hold(mesh.pods["shop"], VIP, ECHO))


def test_a_root_that_goes_ends_what_is_open(mesh: Mesh, gate: Waypoint, closing: None) -> None:
    """Nothing tells what stands on it: all ends, and is dialled again. A root that comes ends nothing."""
    file = mesh.cluster.directory / "controller/ca/root-cert.pem"
    before = file.read_text()
    held = mesh.hold(mesh.pods["shop"], VIP, ECHO)
    file.write_text(before + make_root(TRUST_DOMAIN, time.time())[0].decode())
    mesh.wait(lambda: len(roots(gate)) == 2, "Envoy to trust both", timeout_s=30)
    assert echoes(held)
    file.write_text(before)
    mesh.wait(lambda: len(roots(gate)) == 1, "Envoy to trust one alone", timeout_s=30)
    assert closed_after(held, timeout_s=20) < 20
    mesh.wait(lambda: mesh.call(mesh.pods["shop"], VIP, KEPT_PORT).ok, "calls to go on", timeout_s=20)


def roots(gate: Waypoint) -> set[str]:
    """The serial numbers of the roots that Envoy trusts."""
    found = json.loads(gate.admin("/certs"))["certificates"]
    return {one["serial_number"] for entry in found for one in entry["ca_cert"]}
