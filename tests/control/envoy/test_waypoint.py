"""What a waypoint's Envoy is served for plain services, as the mesh changes: read as messages, and judged by Envoy itself."""

from pathlib import Path

import pytest

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SERVED
from control.envoy.proxies import ProxyKey, all_proxies
from control.envoy.view import ProxyView
from control.envoy.world import World
from control.model.settings import MeshSettings
from tests.control.envoy.validation import messages, validate, validate_messages
from tests.control.model.builders import Config

WAYPOINT = ProxyKey("shop", "waypoint")
GATEWAY = """
    kind: Gateway
    apiVersion: gateway.networking.k8s.io/v1
    metadata: {name: waypoint, namespace: shop}
    spec:
      gatewayClassName: istio-waypoint
      addresses: [{value: 192.0.2.9}]
      listeners: [{name: mesh, port: 15008, protocol: HBONE}]
"""
NODE = """
    kind: Node
    apiVersion: v1
    metadata: {name: n1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}
"""


def service(name: str, address: str, ports: str = "[{name: http, port: 80, targetPort: 8080}]", label: str = "waypoint") -> str:
    return f"""
    kind: Service
    apiVersion: v1
    metadata: {{name: {name}, namespace: shop, labels: {{istio.io/use-waypoint: {label}}}}}
    spec: {{clusterIP: "{address}", selector: {{app: {name}}}, ports: {ports}}}
"""


def pod(name: str, app: str, address: str, ready: bool = True, mesh: str = "ambient") -> str:
    return f"""
    kind: Pod
    apiVersion: v1
    metadata: {{name: {name}, namespace: shop, labels: {{app: {app}, version: v1, istio.io/dataplane-mode: {mesh}}}}}
    spec: {{nodeName: n1, serviceAccountName: {app}}}
    status: {{phase: Running, podIP: "{address}", conditions: [{{type: Ready, status: "{ready}"}}]}}
"""


class Served:
    """A waypoint's view of manifests that change, and what each change touched."""

    def __init__(self, text: str = "", settings: MeshSettings | None = None) -> None:
        self.config = Config(settings=settings)
        self.world = World(self.config.mesh)
        self.config.mesh.watch_batches(self._follow)
        self.view = ProxyView(self.world, WAYPOINT)
        self.changes: list[dict[str, tuple[str, ...]]] = []
        self.view.watch(lambda changes: self.changes.append(dict(changes)))
        self.write("base.yaml", GATEWAY, NODE, text)

    def _follow(self, batch) -> None:
        self.world.apply(batch)
        self.view.refresh()

    def write(self, file: str, *texts: str) -> list[dict[str, tuple[str, ...]]]:
        """What the view told of, since."""
        self.changes.clear()
        self.config.write(file, "\n---\n".join(text for text in texts if text))
        return self.changes

    def of(self, type_url: str):
        return messages(self.view, type_url)


CLUSTER_NAME = "inbound-vip|80|http|cart.shop.svc.cluster.local"


def test_a_service_and_its_endpoints() -> None:
    served = Served()
    served.write(
        "cart.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"), pod("cart-2", "cart", "10.0.0.2", mesh="none")
    )
    assert served.of(ROUTES)[CLUSTER_NAME].virtual_hosts[0].routes[0].route.cluster == CLUSTER_NAME
    (locality,) = served.of(ENDPOINTS)[CLUSTER_NAME].endpoints
    assert (locality.locality.region, locality.locality.zone) == ("r", "z")
    tunnelled, plain = locality.lb_endpoints
    assert tunnelled.endpoint.address.envoy_internal_address.server_listener_name == "connect_originate"
    known = tunnelled.metadata.filter_metadata
    assert known["nodemesh.endpoint"]["identity"] == "spiffe://cluster.local/ns/shop/sa/cart"
    assert known["envoy.filters.listener.original_dst"]["local"] == "10.0.0.1:8080"
    assert plain.endpoint.address.socket_address.address == "10.0.0.2"
    assert plain.endpoint.address.socket_address.port_value == 8080
    assert CLUSTER_NAME in served.of(CLUSTER)


def test_an_endpoint_that_changes_touches_its_load_assignment_only() -> None:
    served = Served()
    served.write("cart.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"))
    before = served.world.computed
    assert served.write("more.yaml", pod("cart-2", "cart", "10.0.0.2")) == [{ENDPOINTS: (CLUSTER_NAME,)}]
    assert served.world.computed - before <= 3, "the endpoints, and the one load assignment that has them"
    assert served.write("more.yaml", pod("cart-2", "cart", "10.0.0.2", ready=False)) == [{ENDPOINTS: (CLUSTER_NAME,)}]
    (locality,) = served.of(ENDPOINTS)[CLUSTER_NAME].endpoints
    assert len(locality.lb_endpoints) == 1


def test_labels_that_nothing_else_depends_on_choose_endpoints_anew() -> None:
    subsets = """
    kind: DestinationRule
    apiVersion: networking.istio.io/v1
    metadata: {name: cart, namespace: shop}
    spec: {host: cart, subsets: [{name: gold, labels: {tier: gold}}]}
    """
    route = """
    kind: VirtualService
    apiVersion: networking.istio.io/v1
    metadata: {name: cart, namespace: shop}
    spec: {hosts: [cart], http: [{route: [{destination: {host: cart, subset: gold}}]}]}
    """
    served, cart = Served(), pod("cart-1", "cart", "10.0.0.1")
    served.write("rules.yaml", service("cart", "10.96.0.1"), subsets, route)
    served.write("cart.yaml", cart)
    name = CLUSTER_NAME.replace("http|", "http/gold|")
    assert not served.of(ENDPOINTS)[name].endpoints
    assert served.write("cart.yaml", cart.replace("app: cart,", "app: cart, tier: gold,")) == [{ENDPOINTS: (name,)}]
    assert len(served.of(ENDPOINTS)[name].endpoints) == 1


def test_what_is_not_bound_is_not_served() -> None:
    served = Served()
    assert served.write("other.yaml", service("other", "10.96.0.9", label="elsewhere"), pod("o", "other", "10.0.0.9")) == []
    assert set(served.view.names(CLUSTER)) == {"main_internal", "main_internal_sniffing", "connect_originate"}


def test_a_service_that_comes_and_goes() -> None:
    served = Served()
    before = {kind: set(served.view.names(kind)) for kind in SERVED}
    kept = served.world.kept
    changes = served.write("cart.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"))
    assert changes == [
        {CLUSTER: (CLUSTER_NAME,), ENDPOINTS: (CLUSTER_NAME,), LISTENER: ("main_internal",), ROUTES: ("connect_terminate", CLUSTER_NAME)}
    ]
    served.write("cart.yaml", "")
    assert {kind: set(served.view.names(kind)) for kind in SERVED} == before
    assert served.world.kept == kept, "nothing of it is kept"


def test_without_its_gateway_a_proxy_has_nothing() -> None:
    served = Served(service("cart", "10.96.0.1"))
    assert served.world.ask(all_proxies) == (WAYPOINT,)
    served.write("base.yaml", NODE, service("cart", "10.96.0.1"))
    assert served.world.ask(all_proxies) == ()
    assert not any(served.view.names(kind) for kind in SERVED)


def test_a_restart_makes_the_same_versions() -> None:
    def versions() -> dict[str, str]:
        served = Served()
        served.write("cart.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"), service("api", "fd00::1"))
        return {f"{kind} {name}": served.view.get(kind, name).version for kind in SERVED for name in served.view.names(kind)}

    assert versions() == versions()


def test_envoy_accepts_it(tmp_path: Path) -> None:
    served = Served()
    ports = (
        "[{name: http, port: 80}, {name: grpc-api, port: 81}, {name: tcp-db, port: 82}, {name: any, port: 83}, {name: tls-x, port: 443}]"
    )
    served.write(
        "all.yaml",
        service("cart", "10.96.0.1", ports),
        service("six", "fd00::1", ports),
        pod("cart-1", "cart", "10.0.0.1"),
        pod("six-1", "six", "fd00::2"),
        pod("plain", "cart", "10.0.0.7", mesh="none"),
    )
    assert len(served.view.names(CLUSTER)) == 15
    validate(tmp_path, served.view)


def test_envoy_refuses_what_is_wrong(tmp_path: Path) -> None:
    """The judge of the other test is one."""
    served = Served()
    (listener, *_) = served.of(LISTENER).values()
    listener.filter_chains[0].filters[0].typed_config.value = b"no message"
    with pytest.raises(AssertionError, match="Unable to unpack"):
        validate_messages(tmp_path, [listener])


def test_nobody_s_entry_takes_the_name_or_address_of_another_s_service_at_a_shared_waypoint(tmp_path: Path) -> None:
    shared = GATEWAY.replace("protocol: HBONE}", "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}").replace(
        "namespace: shop", "namespace: infra"
    )
    theirs = """
    kind: ServiceEntry
    apiVersion: networking.istio.io/v1
    metadata: {name: HOST, namespace: NAMESPACE, labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: infra}}
    spec:
      hosts: [HOST]
      addresses: [ADDRESS]
      resolution: STATIC
      location: MESH_EXTERNAL
      ports: [{number: 80, name: http, protocol: HTTP}]
      endpoints: [{address: 10.6.6.6}]
    """
    cart = service("cart", "10.96.0.1").replace("use-waypoint: waypoint", "use-waypoint: waypoint, istio.io/use-waypoint-namespace: infra")
    entries = [
        theirs.replace("HOST", host).replace("NAMESPACE", namespace).replace("ADDRESS", address)
        for namespace, host, address in (
            ("aaa", "cart.shop.svc.cluster.local", "10.96.0.66"),
            ("aaa", "a.example", "10.96.0.1"),
            ("zzz", "z.example", "10.96.0.1"),
        )
    ]
    config = Config()
    config.write("all.yaml", "\n---\n".join((shared, NODE, cart, pod("cart-1", "cart", "10.0.0.1", mesh="none"), *entries)))
    view = ProxyView(World(config.mesh), ProxyKey("infra", "waypoint"))
    ((locality,),) = [one.endpoints for name, one in messages(view, ENDPOINTS).items() if name == CLUSTER_NAME]
    assert [one.endpoint.address.socket_address.address for one in locality.lb_endpoints] == ["10.0.0.1"]
    by_address = messages(view, LISTENER)["main_internal"].filter_chain_matcher.matcher_tree.exact_match_map.map
    assert CLUSTER_NAME in str(by_address["10.96.0.1"])
    validate(tmp_path, view)
