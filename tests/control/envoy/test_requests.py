"""control/envoy/listeners/requests.py: whatever form a path or a host comes in, a real Envoy judges what it forwards, or answers 400."""

import http.server
import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from control.envoy.listeners.requests import reading, refusals
from control.envoy.rbac.filters import http_judges
from control.envoy.rbac.parts import Callers, Identity
from control.kinds import AuthorizationPolicy
from tests.control.envoy.real_envoy import as_json, http_listener, running
from tests.control.envoy.test_tokens import cluster
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind, block, headers
from tests.nodeagent.ztunnel.proxy.attacks.peer import Ended, Peer

DENIED = "/admin"
OK = b"\x88"
"""In HPACK."""
CALLERS = Callers(Identity.TUNNEL)


class Application(http.server.BaseHTTPRequestHandler):
    """Notes what it was asked."""

    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["host"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def application() -> Iterator[http.server.ThreadingHTTPServer]:
    Application.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, application: http.server.ThreadingHTTPServer) -> Iterator[int]:
    operations = [{"operation": {"paths": [DENIED, f"{DENIED}/*"]}}, {"operation": {"hosts": ["secret.test"]}}]
    spec = {"action": "DENY", "rules": [{"to": operations}]}
    policy = msgspec.convert({"metadata": {"name": "deny", "namespace": "shop"}, "spec": spec}, AuthorizationPolicy)
    judges = [as_json(one) for one in http_judges([policy], CALLERS).filters]
    routes = [*map(as_json, refusals()), {"match": {"prefix": "/"}, "route": {"cluster": "app"}}]
    fields = {name: value["value"] if isinstance(value, dict) else value for name, value in reading(strict=True).items()}
    listener = http_listener("in", judges, routes, delayed_close_timeout="0s", **fields)
    with running(tmp_path_factory.mktemp("envoy"), [listener], [cluster("app", application.server_address[1])]) as envoy:
        yield envoy.ports["in"]


def ask(port: int, path: str, host: str = "shop.test", method: str = "GET", more: str = "") -> tuple[int, list[tuple[str, str]]]:
    """The status, and what the application was asked; bytes as they are, since libraries would mend them."""
    Application.seen.clear()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n".encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split()[1]), list(Application.seen)


def test_what_is_not_denied_is_forwarded_as_it_came(port: int) -> None:
    for path in ("/", "/adminx", "/a%20b?q=//x;y%2f", "/A/b.c~d"):
        assert ask(port, path) == (200, [(path, "shop.test")])


WAYS_IN = (
    "/admin",
    "/admin?x",
    "//admin",
    "/x/../admin",
    "/./admin",
    "/x/%2e%2e/admin",
    "/x/..%2fadmin",
    "/admin%2fx",
    "/%61dmin",
    "\\admin",
    "/x\\..\\admin",
    "/x%5c..%5cadmin",
    "/admin;x",
    "/x;/../admin",
    "/admin/",
    "/admin//x",
    "/admin/./x",
    "/admin#x",
    "/x#/../admin",
    "/admin%00",
    "/a%64min",
    "/admin%2Fx",
    "/%2fadmin",
    "/admin%3bx",
    "http://shop.test/admin",
    "http://other.test//admin",
)


@pytest.mark.parametrize("path", WAYS_IN)
def test_no_form_of_a_denied_path_gets_through(port: int, path: str) -> None:
    status, seen = ask(port, path)
    assert status in {400, 403}, (status, seen)
    assert seen == []


@pytest.mark.parametrize("host", ["secret.test", "SECRET.test", "secret.test:80", "secret.test.", "Secret.Test.:8080", "secret.test.:80"])
def test_no_form_of_a_denied_host_gets_through(port: int, host: str) -> None:
    status, seen = ask(port, "/", host)
    assert status in {400, 403}, (status, seen)
    assert seen == []


def ask_by_http2(port: int, path: str, host: str = "shop.test", *more: tuple[bytes, bytes]) -> tuple[bool, list[tuple[str, str]]]:
    """The same over HTTP/2, in which nothing of the request is a line: whether it is answered with 200."""
    Application.seen.clear()
    named = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", host.encode()), (b":path", path.encode("latin-1")), *more]
    with Peer(socket.create_connection(("127.0.0.1", port), timeout=10)).greet() as peer:
        stream = peer.next_stream()
        peer.send(headers(stream, block(named), end=True))
        try:
            answer = peer.wait_for(lambda one: one.kind in {Kind.GOAWAY, Kind.RST_STREAM, Kind.HEADERS}, within_s=15)
        except Ended:
            return False, list(Application.seen)
    return answer.kind == Kind.HEADERS and answer.payload.startswith(OK), list(Application.seen)


@pytest.mark.parametrize("path", [one for one in WAYS_IN if one.startswith(("/", "\\"))])
def test_nor_does_it_over_http2(port: int, path: str) -> None:
    assert ask_by_http2(port, path) == (False, [])


def test_hosts_over_http2(port: int) -> None:
    assert ask_by_http2(port, "/") == (True, [("/", "shop.test")])
    for host in ("secret.test", "SECRET.test:80", "secret.test."):
        assert ask_by_http2(port, "/", host) == (False, []), host
    assert ask_by_http2(port, "/", "shop.test", (b"host", b"secret.test"))[1] in ([], [("/", "shop.test")]), "what is judged arrives"


def test_dot_segments_are_gone_before_it_is_judged(port: int) -> None:
    assert ask(port, "/admin/../b?/../c") == (200, [("/b?/../c", "shop.test")])
    assert ask(port, "/%41dmin") == (200, [("/Admin", "shop.test")]), "what is judged is what is forwarded"
    assert ask(port, "/admin;x=/../y") == (200, [("/y", "shop.test")])


def test_two_hosts_are_none(port: int) -> None:
    assert ask(port, "/", "shop.test", more="host: secret.test\r\n") == (400, [])
    assert ask(port, "http://secret.test/", "shop.test")[0] == 403


def test_the_methods_case_is_its_own(port: int) -> None:
    assert ask(port, "/x", method="get")[0] == 400
