"""A gateway that the controller drives, called from outside the mesh: by TLS, bytes and redirects, to pods that take tunnels alone."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from control.waypoint import readiness
from demo import gateway, manifests, waypoint
from demo.driven import driven
from demo.gateway import Gateway
from demo.manifests import Manifest
from demo.topology import Pod
from meshapi import wire
from nodeagent.linux.namespaces import Namespace
from tests.control.envoy.authority import Authority
from tests.e2e.mesh import ECHO, HTTP, SECRET, Mesh, echoes, principal, spiffe

TEAM, VAULT_PORT, API_PORT = "team", 8443, 8081
REFUSED = (OSError, ValueError)


def istio(kind: str, name: str, spec: dict[str, Any], namespace: str = "default") -> Manifest:
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def server(number: int, protocol: str, host: str, name: str = "", **tls: object) -> dict[str, Any]:
    found: dict[str, Any] = {
        "port": {"number": number, "protocol": protocol, "name": name or f"{protocol.lower()}-{number}"},
        "hosts": [host],
    }
    return found | ({"tls": tls} if tls else {})


def bound(name: str, hosts: list[str], namespace: str = "default", **rules: list[dict[str, Any]]) -> Manifest:
    return istio("VirtualService", name, {"hosts": hosts, "gateways": ["default/edge"], **rules}, namespace)


def to(host: str, port: int) -> dict[str, Any]:
    return {"route": [{"destination": {"host": host, "port": {"number": port}}}]}


API = "api.default.svc.cluster.local"
SERVERS = [
    server(80, "HTTP", "shop.example", httpsRedirect=True),
    server(443, "HTTPS", "shop.example", "shop", mode="SIMPLE", credentialName="shop"),
    server(443, "HTTPS", f"{TEAM}/*.team.example", "team", mode="SIMPLE", credentialName="team"),
    server(443, "HTTPS", "partner.example", "partner", mode="MUTUAL", credentialName="partner"),
    server(443, "TLS", "vault.example", "vault", mode="PASSTHROUGH"),
    server(ECHO, "TCP", "*"),
]
CLIENTS_PORT = 8444
LISTENERS: tuple[dict[str, Any], ...] = (
    {"name": "api", "port": API_PORT, "protocol": "HTTP"},
    {
        "name": "clients",
        "port": CLIENTS_PORT,
        "protocol": "HTTPS",
        "hostname": "clients.example",
        "tls": {
            "certificateRefs": [{"name": "clients"}],
            "frontendValidation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "client-roots"}]},
        },
    },
)
CONFIGURATION: list[Manifest] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}},
    istio("Gateway", "edge", {"selector": {"istio": "edge"}, "servers": SERVERS}),
    bound("web", ["shop.example", "partner.example"], http=[to("api", 80)]),
    bound("theirs", ["*.team.example"], TEAM, http=[{"match": [{"uri": {"prefix": "/a"}}], **to(API, 80)}]),
    # What another team's host is for is not theirs to say.
    bound("stolen", ["shop.example"], TEAM, http=[{"directResponse": {"status": 418}}]),
    bound("vault", ["vault.example"], tls=[{"match": [{"sniHosts": ["vault.example"]}], **to("vault", VAULT_PORT)}]),
    bound("bytes", ["any.example"], tcp=[to("api", ECHO)]),
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "vault", "namespace": "default"},
        "spec": {"selector": {"app": "api"}, "clusterIP": "10.96.0.31", "ports": [{"name": "tls", "port": VAULT_PORT}]},
    },
    {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "by-api", "namespace": "default"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "api", "port": 80}]}]},
    },
]


@dataclass
class Answer:
    status: int
    body: bytes
    location: str


@dataclass
class Edge:
    """The gateway, and whoever calls it from outside."""

    mesh: Mesh
    gateway: Gateway
    authority: Authority

    def context(self, *client: str) -> ssl.SSLContext:
        found = ssl.create_default_context(cafile=str(self.authority.root))
        if client:
            found.load_cert_chain(*self.authority.issue(*client))
        return found

    def dial(self, name: str, *client: str, address: object = None, port: int = 443) -> ssl.SSLSocket:
        """TLS to the gateway, by name; raises OSError where that is refused."""
        raw = self.mesh.dial(self.mesh.outside, address or self.gateway.pod.ipv4, port)
        return self.context(*client).wrap_socket(raw, server_hostname=name)

    def ask(self, name: str, *client: str, path: str = "/", address: object = None) -> Answer:
        with self.dial(name, *client, address=address) as connection:
            return ask(connection, name, path)

    def works(self, name: str, *client: str) -> bool:
        with contextlib.suppress(*REFUSED):
            return self.ask(name, *client).status == 200
        return False

    def put(self, secret: str, *names: str, roots: bool = False) -> bytes:
        """Another certificate for these names under a Secret; returns it."""
        certificate, key = self.authority.issue(*names)
        content = {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()}
        self.mesh.cluster.write_secret(secret, content | ({"ca.crt": self.authority.root.read_bytes()} if roots else {}))
        return content["tls.crt"]


def ask(connection: socket.socket, name: str, path: str = "/") -> Answer:
    """One request; the connection stays as it is."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {name}\r\n\r\n".encode())
    response = HTTPResponse(connection)
    response.begin()
    return Answer(response.status, response.read(), response.headers.get("location") or "")


@pytest.fixture(scope="module")
def edge(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with gateway.running(mesh.cluster, *LISTENERS, ports=(80, 443, ECHO, API_PORT, CLIENTS_PORT)) as made:
        mesh.cluster.apply("edge-rules", CONFIGURATION)
        try:
            found = Edge(mesh, made, Authority(tmp_path_factory.mktemp("authority")))
            for secret, name in (("shop", "shop.example"), ("team", "*.team.example")):
                found.put(secret, name)
            found.put("partner", "partner.example", roots=True)
            for names in (("shop.example",), ("partner.example", "one.example")):
                mesh.wait(lambda names=names: found.works(*names), f"{names[0]} to be served", timeout_s=30)
            yield found
        finally:
            mesh.cluster.delete("edge-rules")


def test_requests_from_outside_reach_pods_through_tunnels(mesh: Mesh, edge: Edge) -> None:
    with mesh.wiretap("gateway") as tap:
        answers = [edge.ask("shop.example", path=f"/{SECRET.decode()}") for _ in range(20)]
    assert {answer.status for answer in answers} == {200}
    assert {pod for pod in ("api-1", "api-2", "api-3") for answer in answers if f'"{pod}"'.encode() in answer.body} == {
        "api-1",
        "api-2",
        "api-3",
    }
    assert all(
        str(edge.gateway.pod.ipv4).encode() in answer.body or str(edge.gateway.pod.ipv6).encode() in answer.body for answer in answers
    )
    assert not tap.contains(SECRET), "what pods are sent is in tunnels"
    assert edge.ask("shop.example", address=edge.gateway.pod.ipv6).status == 200


def test_its_metrics_say_that_it_called(mesh: Mesh, edge: Edge) -> None:
    assert edge.ask("shop.example").status == 200
    wanted = {
        "reporter": "source",
        "source_workload": "edge",
        "source_workload_namespace": "default",
        "source_principal": spiffe("edge"),
        "destination_service": API,
        "destination_principal": spiffe("api"),
        "destination_app": "api",
        "response_code": "200",
    }
    mesh.wait(lambda: any(one.items() >= wanted.items() for one in edge.gateway.metric("istio_requests_total")), "a request to be counted")


def test_it_says_that_it_is_ready(mesh: Mesh, edge: Edge) -> None:
    with mesh.dial(mesh.outside, edge.gateway.pod.ipv4, wire.PROXY_METRICS_PORT) as connection:
        assert ask(connection, "edge", readiness.PATH).status == 200


def test_names_and_teams(edge: Edge) -> None:
    assert edge.ask("a.team.example", path="/a").status == 200
    assert edge.ask("b.team.example", path="/b").status == 404, "the team's rules hold for the team's host"
    assert edge.ask("shop.example").status == 200, "another team's rule does not"
    with pytest.raises(REFUSED):
        edge.ask("nobody.example")


def test_client_certificates(edge: Edge, tmp_path: Path) -> None:
    assert [edge.ask("partner.example", "one.example").status for _ in range(3)] == [200] * 3
    with pytest.raises(REFUSED):
        edge.ask("partner.example")
    context = edge.context()
    context.load_cert_chain(*Authority(tmp_path).issue("one.example"))
    raw = edge.mesh.dial(edge.mesh.outside, edge.gateway.pod.ipv4, 443)
    with pytest.raises(REFUSED), context.wrap_socket(raw, server_hostname="partner.example") as connection:
        ask(connection, "partner.example")


def test_clients_below_the_roots_of_a_config_map(mesh: Mesh, edge: Edge) -> None:
    edge.put("clients", "clients.example")
    mesh.cluster.write_secret("client-roots", {"ca.crt": edge.authority.root.read_bytes()})

    def status(*client: str) -> int:
        with contextlib.suppress(*REFUSED), edge.dial("clients.example", *client, port=CLIENTS_PORT) as connection:
            return ask(connection, "clients.example").status
        return 0

    mesh.wait(lambda: status("one.example") == 200, "it to be served", timeout_s=20)
    assert [status() for _ in range(3)] == [0] * 3


def test_redirect_tcp_and_the_gateway_api(mesh: Mesh, edge: Edge) -> None:
    address = edge.gateway.pod.ipv4
    with mesh.dial(mesh.outside, address, 80) as connection:
        answer = ask(connection, "shop.example", "/a?b")
        assert (answer.status, answer.location) == (301, "https://shop.example/a?b")
    assert echoes(mesh.hold(mesh.outside, address, ECHO))
    with mesh.dial(mesh.outside, address, API_PORT) as connection:
        assert [ask(connection, "any.example").status for _ in range(5)] == [200] * 5


def test_tls_passes_through_to_the_pod_that_ends_it(mesh: Mesh, edge: Edge) -> None:
    with contextlib.ExitStack() as stack:
        for name in ("api-1", "api-2", "api-3"):
            stack.enter_context(vault(mesh.pods[name], edge.authority))
        with edge.dial("vault.example") as connection:
            assert ask(connection, "vault.example").body == b"vault"


@contextlib.contextmanager
def vault(pod: Pod, authority: Authority) -> Iterator[None]:
    """A server in the pod that ends TLS itself, and answers each connection once."""
    context = authority.server("vault.example")
    with Namespace.open(f"/run/netns/{pod.namespace}") as namespace:
        listening = namespace.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("0.0.0.0", VAULT_PORT))
    listening.listen()

    def serve() -> None:
        while True:
            try:
                raw, _ = listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nvault")

    thread = threading.Thread(target=serve, name="vault")
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


def test_its_identity_is_what_a_policy_of_layer_4_sees(mesh: Mesh, edge: Edge) -> None:
    rule = {"from": [{"source": {"principals": [principal("edge")]}}]}
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "edge-only", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "api"}}, "action": "ALLOW", "rules": [rule]},
    }
    with mesh.policies(policy):
        assert [edge.ask("shop.example").status for _ in range(6)] == [200] * 6
        assert not mesh.call(mesh.pods["shop"], mesh.pods["api-2"].ipv4, HTTP).ok
        assert not mesh.call(mesh.outside, mesh.pods["api-2"].ipv4, HTTP).ok
    with mesh.policies({**policy, "spec": {**policy["spec"], "action": "DENY"}}):
        mesh.wait(lambda: edge.ask("shop.example").status == 503, "what is open to be closed", timeout_s=20)
        assert [edge.ask("shop.example").status for _ in range(6)] == [503] * 6
    mesh.wait(lambda: edge.works("shop.example"), "the gateway to be let in again", timeout_s=20)


FRONT_VIP = "10.96.0.20"


def front(ingress: str) -> Manifest:
    """A service with a waypoint; `ingress`: what its label says of gateways."""
    made = manifests.service("front", app="api", vips=(FRONT_VIP,))
    made["metadata"]["labels"] = {"istio.io/use-waypoint": "gate", "istio.io/ingress-use-waypoint": ingress}
    return made


def test_services_with_a_waypoint(mesh: Mesh, edge: Edge) -> None:
    """Past it, through it where a label says so, and always where policies hold that only the waypoint enforces."""
    edge.put("front", "front.example")
    https = server(443, "HTTPS", "front.example", "front", mode="SIMPLE", credentialName="front")
    listener = istio("Gateway", "front", {"selector": {"istio": "edge"}, "servers": [https]})
    also = bound("front", ["front.example"], http=[to("front", 80)])
    also["spec"]["gateways"] = ["default/front"]

    def client_is(who: Any) -> bool:
        with contextlib.suppress(*REFUSED):
            client = json.loads(edge.ask("front.example").body)["client"].removeprefix("::ffff:")
            return client in {str(who.pod.ipv4), str(who.pod.ipv6)}
        return False

    rule = {"from": [{"source": {"principals": [principal("edge")]}}], "to": [{"operation": {"paths": ["/open"]}}]}
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "front", "namespace": "default"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "front"}], "action": "ALLOW", "rules": [rule]},
    }
    with waypoint.running(mesh.cluster) as gate, mesh.applied("front", front("false"), listener, also):
        mesh.wait(lambda: client_is(edge.gateway), "the way past the waypoint", timeout_s=20)
        mesh.cluster.apply("front", [front("true"), listener, also])
        mesh.wait(lambda: client_is(gate), "the way through it", timeout_s=20)
        assert [edge.ask("front.example").status for _ in range(10)] == [200] * 10
        mesh.cluster.apply("front", [front("false"), listener, also, policy])
        mesh.wait(lambda: edge.ask("front.example").status == 403, "the waypoint to judge", timeout_s=20)
        assert [edge.ask("front.example", path="/open").status for _ in range(10)] == [200] * 10
        assert "go through its waypoint" in mesh.cluster.meshctl("describe", "front")
        # The waypoint believes a gateway of the mesh when it says whose request it passes on.
        for addresses, status in (([f"{mesh.topology.hosts['outside'].ipv4}/32"], 200), (["192.0.2.0/24"], 403)):
            by_address = {"from": [{"source": {"remoteIpBlocks": addresses}}]}
            from_there = {**policy, "spec": {**policy["spec"], "rules": [by_address]}}
            mesh.cluster.apply("front", [front("false"), listener, also, from_there])
            mesh.wait(lambda status=status: edge.ask("front.example").status == status, f"{status} by the client's address", timeout_s=20)
    mesh.wait(lambda: mesh.call(mesh.pods["shop"], mesh.pods["api-2"].ipv4, HTTP).ok, "all to be open again", timeout_s=20)


def test_a_certificate_is_replaced_and_nothing_that_is_open_suffers(mesh: Mesh, edge: Edge) -> None:
    def served() -> str:
        with edge.dial("shop.example") as connection:
            return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")

    with edge.dial("shop.example") as connection:
        first = connection.getpeercert(binary_form=True)
        assert ask(connection, "shop.example").status == 200
        second = edge.put("shop", "shop.example").decode()
        mesh.wait(lambda: served().strip() == second.strip(), "the new certificate", timeout_s=20)
        assert ask(connection, "shop.example").status == 200, "the connection that was open"
        assert connection.getpeercert(binary_form=True) == first
    assert edge.gateway.stat("listener_manager.total_filter_chains_draining") == 0


def test_a_certificate_that_is_missing_is_told_and_taken_when_it_comes(mesh: Mesh, edge: Edge) -> None:
    https = server(443, "HTTPS", "late.example", "late", mode="SIMPLE", credentialName="late")
    also = bound("late", ["late.example"], http=[to("api", 80)])
    also["spec"]["gateways"] = ["default/late"]
    with mesh.applied("late", istio("Gateway", "late", {"selector": {"istio": "edge"}, "servers": [https]}), also):
        missing = "default/edge: the secret default/late is not there"
        mesh.wait(lambda: missing in mesh.cluster.meshctl_answer("proxy-status"), "what it lacks", timeout_s=20)
        with pytest.raises(REFUSED):
            edge.ask("late.example")
        edge.put("late", "late.example")
        mesh.wait(lambda: edge.works("late.example"), "the late name to be served", timeout_s=20)
        assert missing not in mesh.cluster.meshctl_answer("proxy-status")


MOST = 12


class Labelled(Gateway):
    """Nothing but a pod with labels: no Gateway of the Gateway API."""

    def objects(self) -> list[Manifest]:
        return [one for one in super().objects() if one["kind"] != "Gateway"]


def test_a_pod_that_an_istio_gateway_chooses_is_a_gateway(mesh: Mesh, edge: Edge) -> None:
    port = 8085
    listener = istio("Gateway", "old", {"selector": {"app": "runner"}, "servers": [server(port, "HTTP", "old.example")]})
    also = bound("old", ["old.example"], http=[to("api", 80)])
    also["spec"]["gateways"] = ["default/old"]
    made = Labelled(mesh.cluster, mesh.topology.add_pod("n2", "runner"), "runner", "10.96.0.7", ports=(port,))
    with mesh.applied("old", listener, also), driven(made, extra=(f"--max-connections={MOST}",)):

        def status() -> int:
            with contextlib.suppress(*REFUSED), mesh.dial(mesh.outside, made.pod.ipv4, port) as connection:
                return ask(connection, "old.example").status
            return 0

        mesh.wait(lambda: status() == 200, "it to serve", timeout_s=20)
        # Clients that are too many are refused, and harm no others.
        held = [mesh.dial(mesh.outside, made.pod.ipv4, port) for _ in range(MOST)]
        mesh.wait(lambda: status() == 0, "one that is too many to be refused", timeout_s=20)
        assert ask(held[0], "old.example").status == 200
        for connection in held:
            connection.close()
        mesh.wait(lambda: status() == 200, "it to take others again", timeout_s=20)
        # What makes it one goes: it is none any more.
        mesh.cluster.apply("old", [also])
        mesh.wait(lambda: not made.status(), "its streams to be closed", timeout_s=20)
