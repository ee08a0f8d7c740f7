"""Gateways as clients see them: a real Envoy with what the controller makes, over TLS by name, with and without client certificates."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from control.envoy.listeners.tunnel import HANDSHAKE_S
from control.envoy.parts import SDS_CLUSTER
from control.envoy.world import Distrusted
from meshapi.trust import Revocation
from tests.control.envoy.authority import Authority
from tests.control.envoy.echo import Upstream, upstream
from tests.control.envoy.gateways.test_gateway import Edge, api_route, backend, bound, gateway, https, istio_gateway, to
from tests.control.envoy.gateways.test_gateway import http as plain
from tests.control.envoy.patches.envoy_filters import MANAGER, ROUTER, envoy_filter, lua, patch
from tests.control.envoy.real_envoy import RealEnvoy, as_json, running
from tests.control.envoy.routing.test_protocols import grpc_upstream, socket_upstream
from tests.control.envoy.test_waypoint import pod, service

NOWHERE = {
    "name": SDS_CLUSTER,
    "type": "STATIC",
    "load_assignment": {
        "cluster_name": SDS_CLUSTER,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/nowhere"}}}}]}],
    },
}

REVOKED = "spiffe://cluster.local/ns/shop/sa/revoked"
REFUSED = (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)


class Running:
    """A gateway with servers behind it: `cart` in plaintext, `vault` which ends TLS itself."""

    def __init__(self, envoy: RealEnvoy, authority: Authority) -> None:
        self.envoy = envoy
        self.authority = authority

    def port(self, number: int) -> int:
        return self.envoy.ports[f"0.0.0.0_{number}"]

    def context(self, *client: str, least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, most: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A client's, which verifies the server; `client`: the names of its own certificate."""
        found = ssl.create_default_context(cafile=str(self.authority.root))
        found.minimum_version = least
        if most is not None:
            found.maximum_version = most
        if client:
            found.load_cert_chain(*self.authority.issue(*client))
        return found

    def ask(self, number: int, name: str, path: str = "/", context: ssl.SSLContext | None = None, host: str = "", more: str = "") -> Any:
        """Status and headers, with what had arrived at a server under `echo`; raises OSError where the connection is refused."""
        raw: socket.socket = socket.create_connection(("127.0.0.1", self.port(number)), timeout=20)
        with raw if context is None else context.wrap_socket(raw, server_hostname=name) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {host or name}\r\nx-forwarded-for: 9.9.9.9\r\n{more}\r\n".encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            body = response.read()
            echo = json.loads(body) if response.status == 200 else {}
            return {"status": response.status, "location": response.headers.get("location"), "echo": echo}


SERVERS = ", ".join(
    (
        plain("[redirected.example]").replace("hosts:", "tls: {httpsRedirect: true}, hosts:"),
        plain("[cart.example]").replace("name: http-80", "name: open"),
        https("simple", "[cart.example]", "mode: SIMPLE, credentialName: cart"),
        https("other", "['*.other.example']", "mode: SIMPLE, credentialName: other, minProtocolVersion: TLSV1_3"),
        https("mutual", "[mutual.example]", "mode: MUTUAL, credentialName: mutual, subjectAltNames: [partner.example]"),
        https("optional", "[optional.example]", "mode: OPTIONAL_MUTUAL, credentialName: mutual"),
        https("mesh", "[mesh.example]", "mode: ISTIO_MUTUAL"),
        https("calls", "[calls.example]", "mode: SIMPLE, credentialName: calls"),
        https("chat", "[chat.example]", "mode: SIMPLE, credentialName: chat"),
        https("missing", "[missing.example]", "mode: SIMPLE, credentialName: missing"),
        "{port: {number: 443, name: pass, protocol: TLS}, hosts: [vault.example], tls: {mode: PASSTHROUGH}}",
        "{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}",
    )
)
SCRIPT = """
function envoy_on_request(handle)
  handle:headers():add("x-script", "at the gateway")
end
"""
AT_ROUTER = {"filterChain": {"filter": {"name": MANAGER, "subFilter": {"name": ROUTER}}}}
RULES = (
    envoy_filter("script", patch("HTTP_FILTER", "INSERT_BEFORE", lua(SCRIPT), context="GATEWAY", listener=AT_ROUTER), namespace="infra"),
    bound(
        "web",
        "hosts: [redirected.example, cart.example, '*.other.example', mutual.example, optional.example, mesh.example, missing.example], "
        + to("cart"),
    ),
    bound("calls", "hosts: [calls.example], " + to("calls")),
    bound("chat", "hosts: [chat.example], " + to("chat")),
    bound("vault", "hosts: [vault.example], tls: [{match: [{sniHosts: [vault.example]}], route: [{destination: {host: vault}}]}]"),
    bound("tcp", "hosts: [any.example], tcp: [{match: [{port: 9000}], route: [{destination: {host: cart}}]}]"),
    api_route("v2", "hostnames: [api.example], " + backend("cart"), section="web"),
)
LIMIT = """
    kind: RateLimit
    apiVersion: nodemesh.io/v1alpha1
    metadata: {name: some, namespace: infra}
    spec:
      targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: edge}]
      rules:
      - limit: {requests: 2, per: day}
        by: [source.principal, source.namespace, remote.ip]
        when: [{key: "request.headers[x-limited]", values: ["yes"]}]
"""
OWN = "[{name: web, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("edge")
    authority = Authority(directory)
    with ExitStack() as stack:
        cart = stack.enter_context(upstream("cart"))
        vault = stack.enter_context(upstream("vault", authority.server("vault.example")))
        calls, chat = stack.enter_context(grpc_upstream()), stack.enter_context(socket_upstream())
        found = Edge(istio_gateway("edge", SERVERS), *RULES, own=gateway(OWN))
        found.write("limit.yaml", LIMIT)
        found.world.distrust(Distrusted((Revocation(REVOKED, 4_000_000_000),)))
        found.view.refresh()
        found.write("pods.yaml", pod("vault-1", "vault", "10.0.0.9", mesh="none"))
        found.write("vault.yaml", service("vault", "10.96.0.9", "[{name: tls, port: 443}]", label="none"))
        for number, (name, kind) in enumerate((("calls", "grpc"), ("chat", "http")), start=10):
            found.write(f"{name}-pods.yaml", pod(f"{name}-1", name, f"10.0.0.{number}", mesh="none"))
            found.write(f"{name}.yaml", service(name, f"10.96.0.{number}", f"[{{name: {kind}, port: 80}}]", label="none"))
        secrets = [
            *(authority.secret(f"kubernetes://infra/{name}", f"{name}.example") for name in ("calls", "chat")),
            authority.secret("kubernetes://infra/cart", "cart.example"),
            authority.secret("kubernetes://infra/other", "*.other.example"),
            authority.secret("kubernetes://infra/mutual", "mutual.example", "optional.example"),
            authority.roots("kubernetes://infra/mutual-cacert"),
            authority.secret("default", "mesh.example"),
            authority.roots("ROOTCA"),
        ]
        listeners = [_static(one, found, secrets) for name, one in found.of(LISTENER).items() if name.startswith("0.0.0.0")]
        places = {"10.0.0.1": cart, "10.0.0.9": vault, "10.0.0.10": calls, "10.0.0.11": chat}
        clusters = [_cluster(found, name, places) for name in found.of(CLUSTER) if "|" in name]
        yield Running(stack.enter_context(_running(directory, listeners, [*clusters, NOWHERE], secrets)), authority)


def _running(directory: Path, listeners: list[Any], clusters: list[Any], secrets: list[Any]) -> Any:
    return running(directory, listeners, clusters, secrets=secrets, node={"id": "test", "cluster": "test"})


def _static(listener: Any, found: Edge, secrets: list[dict[str, Any]]) -> dict[str, Any]:
    """On any port of loopback, with its routes and secrets in place."""
    known = {one["name"] for one in secrets}

    def adapted(part: dict[str, Any]) -> dict[str, Any]:
        if "rds" in part:
            part["route_config"] = as_json(found.of(ROUTES)[part.pop("rds")["route_config_name"]])
        if part.keys() == {"name", "sds_config"} and part["name"] in known:
            return {"name": part["name"]}
        return part

    # Waiting as long as it really may would be long.
    written = json.dumps(as_json(listener)).replace(f'"{HANDSHAKE_S}s"', '"1s"')
    message = dict(json.loads(written, object_hook=adapted))
    return message | {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}


def _cluster(found: Edge, name: str, servers: dict[str, Upstream]) -> dict[str, Any]:
    cluster = found.of(CLUSTER)[name]
    cluster.ClearField("eds_cluster_config")
    cluster.type = cluster.DiscoveryType.Value("STATIC")
    cluster.load_assignment.CopyFrom(found.of(ENDPOINTS)[name])
    for place in cluster.load_assignment.endpoints:
        for one in place.lb_endpoints:
            address = one.endpoint.address.socket_address
            address.address, address.port_value = "127.0.0.1", servers[address.address].port
    return as_json(cluster)


def test_certificates_by_name(edge: Running) -> None:
    answer = edge.ask(443, "cart.example", context=edge.context())
    assert (answer["status"], answer["echo"]["upstream"]) == (200, "cart")
    assert edge.ask(443, "a.other.example", context=edge.context())["status"] == 200


def test_who_connects_is_told_on(edge: Running) -> None:
    headers = edge.ask(443, "cart.example", context=edge.context())["echo"]["headers"]
    assert headers["x-forwarded-for"].partition(",")[2], "who connected stands last, whatever was there"
    assert headers["x-forwarded-proto"] == "https"
    assert "x-envoy-external-address" in headers, "nobody is trusted as one of us"


def test_limits_count_clients_by_their_certificates_and_by_who_connects(edge: Running) -> None:
    def limited(name: str, *client: str) -> list[int]:
        """Whatever the headers say of others before."""
        return [edge.ask(443, name, context=edge.context(*client), more="x-limited: yes\r\n")["status"] for _ in range(3)]

    assert limited("cart.example") == [200, 200, 429]
    assert limited("mesh.example", "spiffe://cluster.local/ns/shop/sa/page") == [200, 200, 429]
    assert limited("mesh.example", "spiffe://cluster.local/ns/shop/sa/cook") == [200, 200, 429]
    assert edge.ask(443, "cart.example", context=edge.context())["status"] == 200


def test_a_name_leads_to_its_own_hosts_alone(edge: Running) -> None:
    assert edge.ask(443, "cart.example", host="mutual.example", context=edge.context())["status"] == 404


def test_a_name_that_nobody_has_is_refused(edge: Running) -> None:
    with pytest.raises(REFUSED):
        edge.ask(443, "nobody.example", context=edge.context())


def test_versions(edge: Running) -> None:
    with pytest.raises(REFUSED):
        edge.ask(443, "a.other.example", context=edge.context(most=ssl.TLSVersion.TLSv1_2))
    assert edge.ask(443, "cart.example", context=edge.context(most=ssl.TLSVersion.TLSv1_2))["status"] == 200


def test_client_certificates(edge: Running) -> None:
    answer = edge.ask(443, "mutual.example", context=edge.context("partner.example"))
    assert answer["status"] == 200
    assert "DNS=partner.example" in answer["echo"]["headers"]["x-forwarded-client-cert"]
    for client in ((), ("stranger.example",)):
        with pytest.raises(REFUSED):
            edge.ask(443, "mutual.example", context=edge.context(*client))


def test_other_roots_make_no_identities_of_the_mesh(edge: Running) -> None:
    assert edge.ask(443, "optional.example", context=edge.context("spiffe://elsewhere/ns/shop/sa/page"))["status"] == 200
    with pytest.raises(REFUSED):
        edge.ask(443, "optional.example", context=edge.context("spiffe://cluster.local/ns/shop/sa/page"))


def test_identities_of_the_mesh_must_be_asked_for(edge: Running) -> None:
    context = edge.context("spiffe://cluster.local/ns/shop/sa/page")
    assert edge.ask(443, "mesh.example", context=context)["status"] == 200
    for client in ((), ("page.example",)):
        with pytest.raises(REFUSED):
            edge.ask(443, "mesh.example", context=edge.context(*client))
    two = edge.context("spiffe://cluster.local/ns/shop/sa/page", "spiffe://cluster.local/ns/shop/sa/other")
    assert edge.ask(443, "mesh.example", context=two)["status"] == 401
    assert edge.ask(443, "mesh.example", context=edge.context(REVOKED))["status"] == 401


def test_client_certificates_that_are_not_required_are_still_verified(edge: Running, tmp_path: Path) -> None:
    assert edge.ask(443, "optional.example", context=edge.context())["status"] == 200
    assert edge.ask(443, "optional.example", context=edge.context("anybody.example"))["status"] == 200
    forged = edge.context()
    forged.load_cert_chain(*Authority(tmp_path).issue("partner.example"))
    with pytest.raises(REFUSED):
        edge.ask(443, "optional.example", context=forged)


def test_without_its_secret_a_name_is_refused_and_the_others_are_served(edge: Running) -> None:
    with pytest.raises(REFUSED):
        edge.ask(443, "missing.example", context=edge.context())


def test_tls_passes_through_to_who_ends_it(edge: Running) -> None:
    answer = edge.ask(443, "vault.example", context=edge.context())
    assert (answer["echo"]["upstream"], answer["echo"]["sni"]) == ("vault", "vault.example")


def test_grpc_over_tls_is_http2_to_the_end(edge: Running) -> None:
    credentials = grpc.ssl_channel_credentials(edge.authority.root.read_bytes())
    named = (("grpc.ssl_target_name_override", "calls.example"),)
    with grpc.secure_channel(f"127.0.0.1:{edge.port(443)}", credentials, named) as channel:
        assert channel.unary_unary("/test.Echo/Say")(b"hello", timeout=20) == b"/test.Echo/Say hello"
        assert len(list(channel.unary_stream("/test.Echo/Count")(b"100", timeout=20))) == 100


def test_a_websocket_over_tls(edge: Running) -> None:
    raw = socket.create_connection(("127.0.0.1", edge.port(443)), timeout=20)
    upgrade = b"GET / HTTP/1.1\r\nhost: chat.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n"
    with edge.context().wrap_socket(raw, server_hostname="chat.example") as client:
        client.sendall(upgrade)
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        assert head.startswith(b"HTTP/1.1 101")
        for text in (b"one", b"two"):
            client.sendall(text)
            assert client.recv(4096) == text


def test_a_handshake_that_does_not_go_on_ends(edge: Running) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = edge.context().wrap_bio(incoming, outgoing, server_hostname="cart.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with socket.create_connection(("127.0.0.1", edge.port(443)), timeout=20) as connection:
        connection.sendall(outgoing.read())
        assert connection.recv(4096), "the server's part"
        try:
            rest = b"".join(iter(lambda: connection.recv(4096), b""))
        except ConnectionError:
            rest = b""
    assert len(rest) < 1 << 16, "closed, and not by us"


def test_plaintext(edge: Running) -> None:
    answer = edge.ask(80, "redirected.example", "/a?b")
    assert (answer["status"], answer["location"]) == (301, "https://redirected.example/a?b")
    assert edge.ask(80, "redirected.example", more="x-forwarded-proto: https\r\n")["status"] == 301
    assert edge.ask(80, "cart.example")["status"] == 200
    assert edge.ask(80, "nobody.example")["status"] == 404
    assert edge.ask(8080, "api.example")["status"] == 200
    assert edge.ask(9000, "whatever")["echo"]["upstream"] == "cart"


def test_a_script_of_the_gateways_owner(edge: Running) -> None:
    assert edge.ask(80, "cart.example")["echo"]["headers"]["x-script"] == "at the gateway"
    assert edge.ask(443, "cart.example", context=edge.context())["echo"]["headers"]["x-script"] == "at the gateway"
