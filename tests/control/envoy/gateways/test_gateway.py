"""What a gateway's Envoy is served by Istio's Gateways and listeners of the Gateway API: read as messages, and judged by Envoy."""

from pathlib import Path

import pytest

from control.envoy.built import CLUSTER, LISTENER, ROUTES
from control.envoy.gateways.hosts import narrower
from control.envoy.proxies import ProxyKey, all_proxies, find_proxy
from control.envoy.secrets import secrets_of
from control.envoy.view import ProxyView
from control.envoy.world import World
from control.model.settings import MeshSettings
from tests.control.envoy.routing.test_rules import virtual_service
from tests.control.envoy.test_waypoint import NODE, pod, service
from tests.control.envoy.validation import messages, validate
from tests.control.model.builders import Config

EDGE = ProxyKey("infra", "edge")


def gateway(listeners: str = "[]", labels: str = "{istio: ingress}") -> str:
    return f"""
    kind: Gateway
    apiVersion: gateway.networking.k8s.io/v1
    metadata: {{name: edge, namespace: infra, labels: {labels}}}
    spec: {{gatewayClassName: nodemesh, listeners: {listeners}}}
"""


def istio_gateway(name: str, servers: str, namespace: str = "infra", selector: str = "{istio: ingress}") -> str:
    return f"""
    kind: Gateway
    apiVersion: networking.istio.io/v1
    metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "2030-01-01T00:00:00Z"}}
    spec: {{selector: {selector}, servers: [{servers}]}}
"""


def http(hosts: str = "['*']", port: int = 80) -> str:
    return f"{{port: {{number: {port}, name: http-{port}, protocol: HTTP}}, hosts: {hosts}}}"


def https(name: str, hosts: str, tls: str, port: int = 443) -> str:
    return f"{{port: {{number: {port}, name: {name}, protocol: HTTPS}}, hosts: {hosts}, tls: {{{tls}}}}}"


def to(host: str) -> str:
    return f"http: [{{route: [{{destination: {{host: {host}}}}}]}}]"


class Edge:
    """The view of one gateway."""

    def __init__(self, *texts: str, own: str = "", settings: MeshSettings | None = None) -> None:
        self.config = Config(settings=settings)
        self.world = World(self.config.mesh)
        self.config.mesh.watch_batches(self._follow)
        self.view = ProxyView(self.world, EDGE)
        base = [own or gateway(), NODE, service("cart", "10.96.0.1", label="none"), pod("cart-1", "cart", "10.0.0.1", mesh="none")]
        base += [service("web", "10.96.0.2", label="none"), service("db", "10.96.0.3", "[{name: tcp, port: 3306}]", label="none")]
        self.write("base.yaml", *base)
        self.write("more.yaml", *texts)

    def _follow(self, batch) -> None:
        self.world.apply(batch)
        self.view.refresh()

    def write(self, file: str, *texts: str) -> None:
        self.config.write(file, "\n---\n".join(text for text in texts if text))

    def of(self, type_url: str):
        assert not self.view.failed
        return messages(self.view, type_url)

    def hosts(self, table: str = "http.80") -> dict[str, list[str]]:
        """Where the routes of each host lead."""
        return {
            domain: [str(route.route.cluster).rpartition("|")[2].partition(".")[0] for route in one.routes]
            for one in self.of(ROUTES)[table].virtual_hosts
            for domain in one.domains
        }

    def names(self, port: int) -> dict[str, list[str]]:
        """Which names lead to each chain of a port."""
        return {one.name: list(one.filter_chain_match.server_names) for one in self.of(LISTENER)[f"0.0.0.0_{port}"].filter_chains}

    @property
    def problems(self) -> list[str]:
        return [f"{one.object.name} {one.what}" for one in self.view.problems]


def bound(name: str, spec: str, namespace: str = "shop") -> str:
    return virtual_service(name, f"gateways: [infra/edge], {spec}", namespace)


def test_a_gateway_is_a_proxy() -> None:
    edge = Edge()
    assert edge.world.ask(all_proxies) == (EDGE,)
    assert set(edge.view.names(LISTENER)) == {"connect_originate"}


def test_rules_of_several_teams_share_a_port() -> None:
    edge = Edge(
        istio_gateway("edge", http()),
        bound("cart", "hosts: [cart.example], " + to("cart")),
        bound("web", "hosts: ['*.example'], " + to("web")),
        bound("inner", "hosts: [cart.example], gateways: [mesh], " + to("web")).replace("gateways: [infra/edge], ", ""),
    )
    assert edge.hosts() == {"cart.example": ["cart"], "*.example": ["web"]}
    assert "inbound-vip|80|http|cart.shop.svc.cluster.local" in edge.of(CLUSTER)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ("['*']", ["a.example"]),
        ("['shop/*']", ["a.example"]),
        ("['shop/a.example']", ["a.example"]),
        ("['*/*.example']", ["a.example"]),
        ("['other/*']", []),
        ("['./*']", []),
        ("[b.example]", []),
    ],
)
def test_whose_hosts_they_are(claims: str, expected: list[str]) -> None:
    assert list(Edge(istio_gateway("edge", http(claims)), bound("a", "hosts: [a.example], " + to("cart"))).hosts()) == expected


def test_a_wildcard_rule_speaks_for_the_hosts_of_the_server_alone() -> None:
    edge = Edge(istio_gateway("edge", http("[a.example, b.example]")), bound("all", "hosts: ['*'], " + to("cart")))
    assert edge.hosts() == {"a.example": ["cart"], "b.example": ["cart"]}


def test_rules_that_are_not_for_the_gateways_namespace_do_not_hold() -> None:
    assert Edge(istio_gateway("edge", http()), bound("a", "hosts: [a.example], exportTo: [.], " + to("cart"))).hosts() == {}


def test_two_rules_for_a_host_are_one_table() -> None:
    edge = Edge(
        istio_gateway("edge", http()),
        bound("a", "hosts: [a.example], " + to("web")),
        bound("b", "hosts: [a.example], http: [{match: [{uri: {prefix: /cart}}], route: [{destination: {host: cart}}]}]"),
    )
    assert edge.hosts() == {"a.example": ["cart", "web"]}, "what takes everything comes last"


def test_gateways_of_other_labels_are_none_of_its() -> None:
    other = istio_gateway("edge", http(), selector="{istio: egress}")
    assert set(Edge(other).view.names(LISTENER)) == {"connect_originate"}


def test_gateways_of_other_namespaces_choose_it_unless_they_are_scoped() -> None:
    elsewhere = istio_gateway("edge", https("a", "[./a.example]", "mode: SIMPLE, credentialName: a"), namespace="shop")
    rules = virtual_service("a", "gateways: [edge], hosts: [a.example], " + to("web"), "shop")
    edge = Edge(elsewhere, rules)
    assert edge.hosts("https.443.a.edge.shop") == {"a.example": ["web"]}
    assert edge.world.ask(secrets_of, EDGE) == {"kubernetes://infra/a"}, "a Secret of the gateway's namespace, not of the rule's"
    assert set(Edge(elsewhere, rules, settings=MeshSettings(scope_gateways=True)).view.names(LISTENER)) == {"connect_originate"}


def test_gateways_of_other_namespaces_name_none_of_its_files() -> None:
    files = https("a", "[a.example]", "mode: SIMPLE, serverCertificate: /etc/a.pem, privateKey: /etc/a.key")
    edge = Edge(istio_gateway("edge", files, namespace="shop"))
    assert edge.problems == ["edge it names files of a gateway of namespace infra: take credentialName"]
    assert set(edge.view.names(LISTENER)) == {"connect_originate"}
    assert "0.0.0.0_443" in Edge(istio_gateway("edge", files)).view.names(LISTENER)


def test_redirects_to_https() -> None:
    edge = Edge(istio_gateway("edge", http("[a.example]").replace("hosts:", "tls: {httpsRedirect: true}, hosts:")))
    (host,) = edge.of(ROUTES)["http.80"].virtual_hosts
    assert (list(host.domains), host.require_tls) == (["a.example"], 2)


def test_chains_of_tls_by_name(tmp_path: Path) -> None:
    edge = Edge(
        istio_gateway(
            "edge",
            ", ".join(
                (
                    https("a", "[a.example]", "mode: SIMPLE, credentialName: a"),
                    https("m", "['*.m.example']", "mode: MUTUAL, credentialName: m, minProtocolVersion: TLSV1_3, subjectAltNames: [x.y]"),
                    https("o", "[o.example]", "mode: OPTIONAL_MUTUAL, credentialName: o, caCertCredentialName: r"),
                    https("again", "[a.example]", "mode: SIMPLE, credentialName: b"),
                    https("mesh", "[i.example]", "mode: ISTIO_MUTUAL"),
                    "{port: {number: 443, name: p, protocol: TLS}, hosts: [p.example, q.example], tls: {mode: PASSTHROUGH}}",
                    "{port: {number: 443, name: t, protocol: TLS}, hosts: [t.example], tls: {mode: SIMPLE, credentialName: t}}",
                )
            ),
        ),
        bound("a", "hosts: [a.example], " + to("cart")),
        bound("p", "hosts: [p.example], tls: [{match: [{sniHosts: [p.example]}], route: [{destination: {host: cart}}]}]"),
        bound("t", "hosts: [t.example], tcp: [{route: [{destination: {host: db}}]}]"),
    )
    assert edge.names(443) == {
        "https.443.a.edge.infra": ["a.example"],
        "https.443.m.edge.infra": ["*.m.example"],
        "https.443.o.edge.infra": ["o.example"],
        "https.443.mesh.edge.infra": ["i.example"],
        "passthrough.443.p~p.example.edge.infra": ["p.example"],
        "tls.443.t.edge.infra": ["t.example"],
    }
    assert edge.hosts("https.443.a.edge.infra") == {"a.example": ["cart"]}
    assert edge.problems == ["edge port 443: another server has a.example already"]
    validate(tmp_path, edge.view)


def test_tcp_and_what_does_not_mix_with_it() -> None:
    tcp = "{port: {number: 3306, name: db, protocol: TCP}, hosts: ['*']}"
    edge = Edge(
        istio_gateway("edge", f"{tcp}, {http(port=3307)}"),
        istio_gateway("later", http(port=3306)),
        bound("db", "hosts: [db.example], tcp: [{match: [{port: 3306}], route: [{destination: {host: db}}]}]"),
    )
    assert edge.names(3306) == {"tcp.3306.db.edge.infra": []}
    assert edge.problems == ["later port 3306 is infra/edge's already, as tcp"]


LISTENERS = """[
    {name: web, port: 80, protocol: HTTP, hostname: '*.example', allowedRoutes: {namespaces: {from: All}}},
    {name: own, port: 8080, protocol: HTTP},
    {name: tls, port: 443, protocol: HTTPS, hostname: s.example, tls: {certificateRefs: [{name: s}]}},
    {name: far, port: 444, protocol: HTTPS, hostname: s.example, tls: {certificateRefs: [{name: s, namespace: other}]}},
    {name: pass, port: 6443, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}},
    {name: tcp, port: 3306, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}]"""


def api_route(name: str, spec: str, kind: str = "HTTPRoute", section: str = "", namespace: str = "shop") -> str:
    version = {"TLSRoute": "v1alpha3", "TCPRoute": "v1alpha2"}.get(kind, "v1")
    at = f", sectionName: {section}" if section else ""
    return f"""
    kind: {kind}
    apiVersion: gateway.networking.k8s.io/{version}
    metadata: {{name: {name}, namespace: {namespace}}}
    spec: {{parentRefs: [{{name: edge, namespace: infra{at}}}], {spec}}}
"""


def backend(name: str, port: int = 80) -> str:
    return f"rules: [{{backendRefs: [{{name: {name}, port: {port}}}]}}]"


def test_routes_of_the_gateway_api(tmp_path: Path) -> None:
    edge = Edge(
        api_route("cart", "hostnames: [cart.example, elsewhere.test], " + backend("cart")),
        api_route("any", backend("web"), section="web"),
        api_route("pass", "hostnames: [p.example], " + backend("cart"), kind="TLSRoute"),
        api_route("db", backend("db", 3306), kind="TCPRoute"),
        own=gateway(LISTENERS),
    )
    assert edge.hosts() == {"cart.example": ["cart"], "*.example": ["web"]}
    assert edge.hosts("http.8080") == {}, "routes of its own namespace alone"
    assert edge.names(6443) == {"passthrough.6443.pass~p.example.edge.infra": ["p.example"]}
    assert edge.names(3306) == {"tcp.3306.tcp.edge.infra": []}
    assert edge.names(443) == {"https.443.tls.edge.infra": ["s.example"]}
    assert edge.problems == ["edge no ReferenceGrant of namespace other lets it name Secret other/s"]
    assert "0.0.0.0_444" not in edge.of(LISTENER), "another namespace's certificate"
    validate(tmp_path, edge.view)


@pytest.mark.parametrize(
    ("one", "two", "both"),
    [
        ("*", "a.b", "a.b"), ("a.b", "*", "a.b"), ("*.b", "a.b", "a.b"), ("*.b", "*.a.b", "*.a.b"), ("a.b", "a.b", "a.b"),
        ("a.b", "c.b", ""), ("*.b", "*.c", ""), ("*.b", "b", ""), ("*", "*", "*"),
    ],
)  # fmt: skip
def test_what_two_hosts_have_in_common(one: str, two: str, both: str) -> None:
    assert narrower(one, two) == narrower(two, one) == both


def edge_pod(name: str, labels: str, mesh: str = "none", account: str = "runner") -> str:
    return f"""
    kind: Pod
    apiVersion: v1
    metadata: {{name: {name}, namespace: infra, labels: {{{labels}, istio.io/dataplane-mode: {mesh}}}}}
    spec: {{nodeName: n1, serviceAccountName: {account}}}
    status: {{phase: Running, podIP: 10.0.1.{len(name)}, conditions: [{{type: Ready, status: "True"}}]}}
"""


RUNNER = ProxyKey("infra", "runner")


def test_workloads_that_are_chosen_by_their_labels_are_gateways_too() -> None:
    """As Istio's own installation runs them: a Deployment, and Gateways with a selector for its pods."""
    chosen = istio_gateway("old", http("[cart.example]"), selector="{app: edge}")
    rules = bound("cart", "hosts: [cart.example], " + to("cart")).replace("infra/edge", "infra/old")
    edge = Edge(chosen, rules)
    mesh, view = edge.config.mesh, ProxyView(edge.world, RUNNER)

    def known() -> bool:
        view.refresh()
        assert mesh.has_gateway("infra", "runner") == (edge.world.ask(find_proxy, RUNNER) is not None)
        assert (RUNNER in edge.world.ask(all_proxies)) == mesh.has_gateway("infra", "runner")
        assert ("0.0.0.0_80" in view.names(LISTENER)) == mesh.has_gateway("infra", "runner")
        return mesh.has_gateway("infra", "runner")

    assert not known()
    edge.write("pods.yaml", edge_pod("one", "app: edge, zone: a"))
    assert known()
    found = edge.world.ask(find_proxy, RUNNER)
    assert found is not None
    assert str(found.identity) == "spiffe://cluster.local/ns/infra/sa/runner"
    edge.write("pods.yaml", edge_pod("one", "app: edge, zone: a"), edge_pod("three", "app: edge, zone: b"))
    found = edge.world.ask(find_proxy, RUNNER)
    assert found is not None
    assert "zone" not in found.labels, "what only one of them says holds for none"
    for others in (edge_pod("one", "app: edge", mesh="ambient"), edge_pod("one", "app: else"), edge_pod("one", "app: edge", account="x")):
        edge.write("pods.yaml", others)
        assert not known(), "captured, not chosen, or somebody else's"
    edge.write("pods.yaml", edge_pod("one", "app: edge"))
    assert known()
    edge.write("more.yaml", istio_gateway("all", http(), selector="{}"))
    assert not known(), "one for whatever gateway there is makes none"


def test_a_gateway_of_the_gateway_api_goes_before_labels() -> None:
    edge = Edge(istio_gateway("old", http(), selector="{app: edge}"))
    edge.write("pods.yaml", edge_pod("one", "app: edge", account="edge"))
    found = edge.world.ask(find_proxy, EDGE)
    assert found is not None
    assert "app" not in found.labels


def test_other_namespaces_do_not_choose_where_a_gateway_listens(tmp_path: Path) -> None:
    """The port is everybody's: it would leave all other addresses, or, at one that is not there, never be served again."""
    server = http("[theirs.example]").removesuffix("}") + ", bind: 192.0.2.66}"
    edge = Edge(istio_gateway("edge", http("[ours.example]")), istio_gateway("theirs", server, namespace="team"))
    listener = edge.of(LISTENER)["0.0.0.0_80"]
    assert [listener.address.socket_address.address, *listener.additional_addresses] == ["::"]
    assert edge.problems == ["theirs where a gateway of namespace infra listens is that namespace's to say: leave out bind"]
    validate(tmp_path, edge.view)


def test_servers_of_one_name_share_no_hosts() -> None:
    """Else who shows no certificate to one of them could ask it for the other's hosts."""
    open_to_all = https("https", "[open.example]", "mode: SIMPLE, credentialName: open")
    closed = https("https", "[closed.example]", "mode: MUTUAL, credentialName: closed")
    listener = "{name: https, port: 443, protocol: HTTPS, hostname: own.example, tls: {certificateRefs: [{name: own}]}}"
    rules = (bound("open", "hosts: [open.example], " + to("web")), bound("closed", "hosts: [closed.example], " + to("cart")))
    edge = Edge(istio_gateway("edge", f"{open_to_all}, {closed}"), *rules, own=gateway(f"[{listener}]"))
    found = {names[0]: list(edge.hosts(table)) for table, names in edge.names(443).items()}
    assert found == {"own.example": [], "open.example": ["open.example"], "closed.example": ["closed.example"]}
