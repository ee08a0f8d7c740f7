"""control/envoy/external.py: what a CUSTOM policy matches is decided by whom it names, by gRPC and HTTP; without him by nobody."""

import http.client
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from control.envoy.built import CLUSTER
from control.envoy.external import Authorizer, asking
from control.envoy.messages import message_class, new
from control.envoy.naming import ClusterRef
from control.envoy.rbac.filters import http_judges
from control.envoy.rbac.parts import Callers, Identity
from control.kinds import AuthorizationPolicy
from control.kinds.mesh_config import ExtensionProvider
from control.validation.document import read_documents
from tests.control.envoy.real_envoy import EXTENSIONS, as_json, http_listener, running
from tests.control.envoy.test_security import judges, policy, to
from tests.control.envoy.test_tokens import cluster
from tests.control.envoy.test_waypoint import Served, pod, service
from tests.control.envoy.validation import validate

SERVICE = "envoy.service.auth.v3.Authorization"
HELD = {"grpc": ClusterRef("shop/grpc.shop", 1), "http": ClusterRef("shop/http.shop", 2), "gone": ClusterRef("shop/gone.shop", 3)}

CALLERS = Callers(Identity.TUNNEL)


def custom(name: str, provider: str, path: str) -> AuthorizationPolicy:
    spec = {"action": "CUSTOM", "provider": {"name": provider}, "rules": [{"to": [{"operation": {"paths": [path]}}]}]}
    return msgspec.convert({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}, AuthorizationPolicy)


class Decider(http.server.BaseHTTPRequestHandler):
    """Lets in who shows the pass; says what it was shown."""

    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(200 if self.headers.get("x-pass") == "good" else 418)
        self.send_header("x-decided", "http")
        self.send_header("x-secret", "kept")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


class Application(Decider):
    """Shows what came."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        for name in ("x-decided", "x-secret"):
            if self.headers.get(name):
                self.send_header(f"got-{name}", self.headers[name])
        self.end_headers()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, int]]:
    Decider.asked = []
    found = {name: http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) for name, kind in (("http", Decider), ("app", Application))}
    threads = [threading.Thread(target=server.serve_forever) for server in found.values()]
    for thread in threads:
        thread.start()
    decided = grpc.server(ThreadPoolExecutor(2))
    check = grpc.unary_unary_rpc_method_handler(
        _check,
        request_deserializer=message_class("envoy.service.auth.v3.CheckRequest").FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    decided.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Check": check}),))
    port = decided.add_insecure_port("127.0.0.1:0")
    decided.start()
    try:
        yield {name: server.server_address[1] for name, server in found.items()} | {"grpc": port}
    finally:
        decided.stop(None).wait()
        for server, thread in zip(found.values(), threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def _check(request: Any, _context: object) -> Any:
    good = request.attributes.request.http.headers.get("x-pass") == "good"
    header = {"header": {"key": "x-decided", "value": "grpc"}}
    fields: dict[str, Any] = {"ok_response": {"headers": [header]}} if good else {"denied_response": {"status": {"code": "Forbidden"}}}
    return new("envoy.service.auth.v3.CheckResponse", status={"code": 0 if good else 7}, **fields)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, servers: dict[str, int]) -> Iterator[int]:
    providers = [
        {"name": "grpc", "envoyExtAuthzGrpc": {"service": "grpc.shop", "port": 1}},
        {
            "name": "http",
            "envoyExtAuthzHttp": {
                "service": "http.shop",
                "port": 2,
                "pathPrefix": "/decide",
                "includeRequestHeadersInCheck": ["X-Pass", "x-also-*"],
                "includeAdditionalHeadersInCheck": {"x-from": "mesh"},
                "headersToUpstreamOnAllow": ["x-decided"],
            },
        },
        {"name": "gone", "envoyExtAuthzGrpc": {"service": "gone.shop", "port": 3, "statusOnError": "503", "timeout": "1s"}},
    ]
    authorizers = {one["name"]: Authorizer(msgspec.convert(one, ExtensionProvider), HELD[one["name"]]) for one in providers}
    policies = [
        custom("a", "grpc", "/grpc*"),
        custom("b", "http", "/http*"),
        custom("c", "gone", "/gone*"),
        custom("d", "nobody", "/nobody*"),
    ]
    found = asking(policies, authorizers, CALLERS)
    assert [policy.metadata.name for policy in found.unasked] == ["d"]
    filters = [as_json(one) for one in (*found.filters, *http_judges(found.unasked, CALLERS).filters)]
    route = {"match": {"prefix": "/"}, "route": {"cluster": "app"}}
    listener = http_listener("in", filters, [route])
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    clusters = [cluster("app", servers["app"]), cluster(HELD["http"].name, servers["http"])]
    clusters.append(cluster(HELD["grpc"].name, servers["grpc"]) | {"typed_extension_protocol_options": http2})
    clusters.append(cluster(HELD["gone"].name, 1) | {"typed_extension_protocol_options": http2})
    with running(tmp_path_factory.mktemp("envoy"), [listener], clusters) as envoy:
        yield envoy.ports["in"]


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def test_what_no_rule_matches_is_nobodys_to_decide(port: int) -> None:
    Decider.asked.clear()
    assert ask(port, "/other")[0] == 200
    assert Decider.asked == []


def test_a_decision_by_grpc(port: int) -> None:
    status, headers = ask(port, "/grpc", x_pass="good", x_decided="forged")
    assert (status, headers["got-x-decided"]) == (200, "grpc")
    assert ask(port, "/grpc", x_pass="bad")[0] == 403
    assert ask(port, "/grpc")[0] == 403


def test_a_decision_by_http(port: int) -> None:
    Decider.asked.clear()
    status, headers = ask(port, "/http/a?b", x_pass="good", x_also_this="1", cookie="not shown", x_decided="forged")
    assert (status, headers["got-x-decided"]) == (200, "http")
    assert "got-x-secret" not in headers
    ((path, shown),) = Decider.asked
    assert path == "/decide/http/a?b"
    assert (shown["x-pass"], shown["x-also-this"], shown["x-from"]) == ("good", "1", "mesh")
    assert "cookie" not in shown
    assert ask(port, "/http", x_pass="bad")[0] == 418


def test_who_does_not_answer_lets_nobody_in(port: int) -> None:
    assert ask(port, "/gone", x_pass="good")[0] == 503


def test_who_is_not_there_lets_nobody_in(port: int) -> None:
    assert ask(port, "/nobody", x_pass="good")[0] == 403


# ---- in the mesh

PROVIDERS = """
    kind: ConfigMap
    apiVersion: v1
    metadata: {name: istio, namespace: istio-system}
    data:
      mesh: |
        accessLogFile: /dev/stdout
        extensionProviders:
        - {name: decider, envoyExtAuthzGrpc: {service: decider.shop.svc.cluster.local, port: 9000}}
        - {name: another, zipkin: {service: zipkin.shop.svc.cluster.local, port: 9411}}
"""
ASKED = "action: CUSTOM, provider: {name: decider}, rules: [{to: [{operation: {methods: [GET]}}]}]"


def test_a_provider_is_a_service_of_the_mesh_and_its_cluster_is_served(tmp_path: Path) -> None:
    chain, denied = "inbound-vip|80|http|cart.shop.svc.cluster.local", ["ns[shop]-policy[asked]-rule[0]"]
    asked = policy("asked", to("Service", "cart"), body=ASKED)
    decider = service("decider", "10.96.0.2", "[{name: grpc, port: 9000}]", label="none")
    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"), asked)
    assert judges(served) == {chain: denied}
    served.write("b.yaml", PROVIDERS, decider, pod("d-1", "decider", "10.0.0.2"))
    assert judges(served) == {chain: ["asks"]}
    assert "inbound-vip|9000|http|decider.shop.svc.cluster.local" in [one.name for one in served.of(CLUSTER).values()]
    validate(tmp_path, served.view)
    served.write("b.yaml")
    assert judges(served) == {chain: denied}


@pytest.mark.parametrize(
    ("mesh", "what"),
    [
        ("extensionProviders: 7", "Expected"),
        ("extensionProviders: [{name: a}, {name: a}]", "more than one"),
        ("extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: x y, port: 1}}]", "a:"),
        ("extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: x, port: 0}}]", "a:"),
        ("extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: x, port: 1, statusOnError: '200'}}]", "refuses"),
        ("extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: x, port: 1, statusOnError: '420'}}]", "refuses"),
        ("extensionProviders: [{name: a, envoyExtAuthzHttp: {service: x, port: 1, pathPrefix: x}}]", "pathPrefix"),
        ("a: [", "mesh"),
    ],
)
def test_a_mesh_configuration_that_is_refused(mesh: str, what: str) -> None:
    text = f"kind: ConfigMap\napiVersion: v1\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {mesh}\n"
    (document,) = read_documents(text, "a.yaml", "istio-system")
    assert document.object is None
    assert what in document.findings[0].what


def test_other_config_maps_are_not_the_meshs() -> None:
    (document,) = read_documents("kind: ConfigMap\napiVersion: v1\nmetadata: {name: istio, namespace: shop}\n", "a.yaml", "istio-system")
    assert document.object is None
    assert not document.unreadable
