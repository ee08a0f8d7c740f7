"""gRPC, HTTP/2, WebSocket and TLS by its server name through a real Envoy with what the controller serves."""

import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from tests.control.envoy.authority import Authority
from tests.control.envoy.echo import Upstream, upstream
from tests.control.envoy.routed import Routed, routed
from tests.control.envoy.test_waypoint import Served, pod, service
from tests.nodeagent.ztunnel.proxy.attacks.frames import PREFACE, Kind, block, data, headers, settings, take_frame
from tests.nodeagent.ztunnel.proxy.attacks.peer import Peer

PORT = "[{name: %s, port: 80, targetPort: 8080}]"
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: calls, namespace: shop}
spec:
  hosts: [calls]
  http:
  - match: [{uri: {exact: /test.Echo/Old}}]
    rewrite: {uri: /test.Echo/Say}
    route: [{destination: {host: calls}, headers: {response: {set: {x-by: rule}}}}]
  - match: [{headers: {x-chaos: {}}}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
    route: [{destination: {host: calls}}]
  - route: [{destination: {host: calls}}]
"""


NAMES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: names, namespace: shop}
spec:
  hosts: [front, a.example.com, "*.b.example.com"]
  tls:
  - {match: [{sniHosts: [a.example.com]}], route: [{destination: {host: one}}]}
  - {match: [{sniHosts: ["*.b.example.com"]}], route: [{destination: {host: two}}]}
  - {match: [{sniHosts: [front]}], route: [{destination: {host: nobody}}]}
"""


UPGRADE = """
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: upgraded, namespace: shop}
spec: {host: upgraded, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}}
"""
CALLS = """
kind: GRPCRoute
apiVersion: gateway.networking.k8s.io/v1
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - matches: [{method: {service: test.Echo, method: Say}, headers: [{name: x-to, value: calls}]}]
    backendRefs: [{name: calls, port: 80}]
  - matches: [{method: {service: test.Echo, method: Say}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: rule}]}}]
    backendRefs: [{name: api, port: 80}]
"""


class Echo(grpc.GenericRpcHandler):
    """Answers each call with its method and message; of `Talk` each message as it comes, of `Count` as many as it says."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        match details.method:
            case "/test.Echo/Talk":
                return grpc.stream_stream_rpc_method_handler(lambda messages, _context: (b"heard " + one for one in messages))
            case "/test.Echo/Count":
                return grpc.unary_stream_rpc_method_handler(lambda message, _context: (b"%d" % one for one in range(int(message))))
        return grpc.unary_unary_rpc_method_handler(lambda message, _context: f"{details.method} {message.decode()}".encode())


@contextmanager
def grpc_upstream() -> Iterator[Upstream]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=(Echo(),))
    found = Upstream("calls", server.add_insecure_port("127.0.0.1:0"))
    server.start()
    try:
        yield found
    finally:
        server.stop(None).wait()


@contextmanager
def listening(name: str, serve: Callable[[socket.socket], None]) -> Iterator[Upstream]:
    """Has each connection served, one after another."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                serve(connection)

    thread = threading.Thread(target=accept, name=name)
    thread.start()
    try:
        yield Upstream(name, listener.getsockname()[1])
    finally:
        # Closing alone would leave it waiting.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextmanager
def socket_upstream() -> Iterator[Upstream]:
    """Takes the upgrade to a WebSocket, then returns what it gets."""

    def serve(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        upgrade = b"upgrade: websocket" in head.lower()
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" if upgrade else b"")
        while got := connection.recv(4096):
            connection.sendall(got)

    with listening("chat", serve) as found:
        yield found


@contextmanager
def versions_upstream() -> Iterator[Upstream]:
    """Answers each first request of a connection with the version of HTTP in which it came."""

    def answer(connection: socket.socket) -> None:
        head = connection.recv(4096)
        if not head.startswith(PREFACE):
            connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 8\r\n\r\nHTTP/1.1")
            return
        buffer = bytearray(head[len(PREFACE) :])
        connection.sendall(settings())
        while True:
            while (found := take_frame(buffer)) is not None:
                if found.kind == Kind.HEADERS:
                    connection.sendall(headers(found.stream, block([(b":status", b"200")])) + data(found.stream, b"HTTP/2", end=True))
                    return
            if not (more := connection.recv(4096)):
                return
            buffer += more

    with listening("versions", answer) as found:
        yield found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    with ExitStack() as stack:
        calls, chat = stack.enter_context(grpc_upstream()), stack.enter_context(socket_upstream())
        plain = stack.enter_context(versions_upstream())
        served = Served()
        served.write("calls.yaml", service("calls", "10.96.0.1", PORT % "grpc"), pod("c", "calls", "10.0.0.1", mesh="none"), ROUTE)
        served.write("chat.yaml", service("chat", "10.96.0.2", PORT % "http"), pod("w", "chat", "10.0.0.2", mesh="none"))
        served.write("api.yaml", service("api", "10.96.0.3", PORT % "grpc"), pod("a", "api", "10.0.0.3", mesh="none"), CALLS)
        served.write("plain.yaml", service("plain", "10.96.0.4", PORT % "http"), pod("p", "plain", "10.0.0.4", mesh="none"))
        served.write(
            "upgraded.yaml", service("upgraded", "10.96.0.5", PORT % "http"), pod("u", "upgraded", "10.0.0.5", mesh="none"), UPGRADE
        )
        places = {"10.0.0.5": plain, "10.0.0.1": calls, "10.0.0.2": chat, "10.0.0.3": calls, "10.0.0.4": plain}
        where = tmp_path_factory.mktemp("envoy")
        authority = Authority(where)
        for index, name in enumerate(("front", "one", "two")):
            address = f"10.0.1.{index + 1}"
            places[address] = stack.enter_context(upstream(name, authority.server("x.example.com")))
            served.write(f"{name}.yaml", service(name, f"10.96.1.{index + 1}", PORT % "tls"), pod(name, name, address, mesh="none"))
        served.write("names.yaml", NAMES)
        yield stack.enter_context(routed(where, served, places))


def test_grpc_is_http2_to_the_end_and_is_routed_by_method(mesh: Routed) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{mesh.envoy.ports['calls']}") as channel:
        say = channel.unary_unary("/test.Echo/Say")
        assert say(b"hello", timeout=20) == b"/test.Echo/Say hello"
        answer, call = channel.unary_unary("/test.Echo/Old").with_call(b"hi", timeout=20)
        assert answer == b"/test.Echo/Say hi"
        assert dict(call.initial_metadata())["x-by"] == "rule"
        with pytest.raises(grpc.RpcError) as error:
            say(b"hello", timeout=20, metadata=[("x-chaos", "1")])
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_messages_of_a_stream_pass_one_by_one_both_ways(mesh: Routed) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{mesh.envoy.ports['calls']}") as channel:
        said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        heard = channel.stream_stream("/test.Echo/Talk")(iter(said.get, None), timeout=20)
        for text in (b"one", b"two"):
            said.put(text)
            assert next(heard) == b"heard " + text, "the stream is open still"
        said.put(None)
        assert list(heard) == []
        assert len(list(channel.unary_stream("/test.Echo/Count")(b"1000", timeout=20))) == 1000


def test_calls_are_routed_by_the_gateway_apis_routes(mesh: Routed) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{mesh.envoy.ports['api']}") as channel:
        say = channel.unary_unary("/test.Echo/Say")
        answer, call = say.with_call(b"hi", timeout=20)
        assert (answer, dict(call.initial_metadata()).get("x-by")) == (b"/test.Echo/Say hi", "rule")
        answer, call = say.with_call(b"hi", timeout=20, metadata=[("x-to", "calls")])
        assert (answer, dict(call.initial_metadata()).get("x-by")) == (b"/test.Echo/Say hi", None)
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/test.Echo/Other")(b"hi", timeout=20)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_clients_of_http2_and_of_http1_at_one_port(mesh: Routed) -> None:
    """A port that does not say which gets what its client speaks, up to the endpoint."""
    with Peer(socket.create_connection(("127.0.0.1", mesh.envoy.ports["plain"]), timeout=20)).greet() as client:
        request = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"plain"), (b":path", b"/")]
        client.send(headers(1, block(request), end=True))
        assert client.wait_for(lambda one: one.kind == Kind.DATA and one.stream == 1).payload == b"HTTP/2"
    assert mesh.ask("plain").body == b"HTTP/1.1"
    assert mesh.ask("upgraded").body == b"HTTP/2", "a rule says so"


def test_a_websocket_is_carried_both_ways(mesh: Routed) -> None:
    with socket.create_connection(("127.0.0.1", mesh.envoy.ports["chat"]), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: chat\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        assert head.startswith(b"HTTP/1.1 101")
        for text in (b"one", b"two"):
            client.sendall(text)
            assert client.recv(4096) == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.example.com", "one"),
        ("A.Example.com", "one"),
        ("x.b.example.com", "two"),
        ("b.example.com", "front"),
        ("other.example.com", "front"),
        (None, "front"),
        ("front", ""),
    ],
)
def test_tls_goes_by_the_name_that_is_asked_for_and_is_not_opened(mesh: Routed, name: str | None, expected: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", mesh.envoy.ports["front:80/tls"]), timeout=20) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=name) as client:
                client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(4096), b""))
        except OSError:
            answer = b""
    assert (f'"upstream": "{expected}"'.encode() in answer) if expected else (answer == b"")
