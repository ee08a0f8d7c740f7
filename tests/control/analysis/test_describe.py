"""control/analysis/describe.py: what holds for a service, in its order."""

import pytest

from control.analysis.describe import Described, describe
from control.envoy.world import World
from tests.control.analysis.test_run import EDGE, WELL, authorization, destination_rule, virtual_service
from tests.control.envoy.patches.envoy_filters import envoy_filter, inserted, lua, patch
from tests.control.envoy.wasm.test_plugins import HTTPS, SHA, plugin
from tests.control.model.builders import Config

AT_WAYPOINT = "targetRefs: [{kind: Gateway, name: waypoint, group: gateway.networking.k8s.io}]"
LIMIT = """kind: RateLimit
apiVersion: nodemesh.io/v1alpha1
metadata: {name: l, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  rules:
  - {limit: {requests: 5, per: minute}, by: [source.principal]}
  - {limit: {requests: 1, per: day}, to: [{operation: {methods: [PUT]}}]}
"""
MORE = "\n---\n".join(
    (
        authorization(
            "b-deny", "{targetRefs: [{kind: Gateway, name: waypoint, group: gateway.networking.k8s.io}], action: DENY, rules: [{}]}"
        ),
        authorization("of-agents", "{selector: {matchLabels: {app: cart}}, rules: [{}]}"),
        "kind: PeerAuthentication\napiVersion: security.istio.io/v1\nmetadata: {name: p, namespace: shop}\nspec: {mtls: {mode: STRICT}}",
        virtual_service("later", "{hosts: [cart], http: [{route: [{destination: {host: cart}}]}]}"),
        LIMIT,
        envoy_filter("mark", inserted(lua("")), patch("CLUSTER", "MERGE", {"connect_timeout": "3s"}), services=("cart",)),
        plugin("module", HTTPS, "cart", sha256=SHA, phase="AUTHN"),
        destination_rule("more", "{host: cart, subsets: [{name: v2, labels: {version: v2}}]}"),
    )
)
CANARY = """kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
  - {match: [{headers: {end-user: {exact: jason}}, uri: {prefix: /a}}, {method: {exact: PUT}}], directResponse: {status: 418}}
  - {route: [{destination: {host: cart, subset: v1}, weight: 90}, {destination: {host: nowhere}, weight: 10}], timeout: 5s}
"""


def described(text: str, name: str = "cart", namespace: str = "shop") -> Described:
    mesh = Config(text).mesh
    (one,) = describe(mesh, World(mesh), name, namespace)
    return one


def test_what_applies_and_in_which_order() -> None:
    found = described(f"{WELL}\n---\n{MORE}")
    assert (found.service, found.owner) == ("shop/cart.shop.svc.cluster.local", "Service shop/cart")
    assert (found.addresses, found.ports) == (("10.96.0.1",), ("80 http HTTP11",))
    assert found.endpoints == "1, 1 of them ready, 1 in mutual TLS"
    assert found.mutual_tls == ("STRICT",)
    assert found.waypoint == "shop/waypoint"
    assert found.policies == ("DENY shop/b-deny", "ALLOW shop/cart")
    assert found.agent_policies == ("ALLOW shop/of-agents",)
    assert found.extensions == ("EnvoyFilter shop/mark: INSERT_BEFORE HTTP_FILTER, MERGE CLUSTER", "WasmPlugin shop/module: AUTHN")
    assert found.limits == ("local shop/l: 5/minute for each source.principal", "local shop/l: 1/day of some")
    assert found.routing == ("VirtualService shop/cart", "VirtualService shop/later (has no effect: the first one holds)")
    assert found.routes == ("1. anything -> cart:80 subset v1",)
    assert found.rules == ("DestinationRule shop/cart", "DestinationRule shop/more")
    assert found.subsets == ("v1 (version=v1): 1 endpoint", "v2 (version=v2): 0 endpoints")


def test_routes_in_words_and_what_they_ask_for_in_vain() -> None:
    parts = [part for part in WELL.split("---") if "kind: VirtualService" not in part]
    found = described("---".join((*parts, f"\n{CANARY}")))
    assert found.routes == (
        "1. uri prefix /a and header end-user exact jason or method exact PUT -> answer 418",
        "2. anything -> cart subset v1 90%, nowhere 10% (within 5s)",
    )
    assert any("nowhere" in problem for problem in found.problems)


def test_without_a_waypoint_only_connections_are_judged() -> None:
    found = described(WELL.replace("labels: {istio.io/use-waypoint: waypoint}", "labels: {}"))
    assert found.waypoint == "none: no connection is taken for it: policies hold that only a waypoint enforces"
    assert found.policies == found.routes == ()


def test_how_gateways_come_to_it() -> None:
    assert described(WELL).gateways == "go through its waypoint: policies hold for it that only the waypoint enforces"
    unguarded = "---".join(part for part in WELL.split("---") if "kind: AuthorizationPolicy" not in part)
    assert described(unguarded).gateways == "go past its waypoint: istio.io/ingress-use-waypoint does not say true"
    asked = unguarded.replace("istio.io/use-waypoint: waypoint", 'istio.io/use-waypoint: waypoint, istio.io/ingress-use-waypoint: "true"')
    assert described(asked).gateways == "go through its waypoint: istio.io/ingress-use-waypoint"
    without = "---".join(part for part in WELL.split("---") if "kind: Gateway\n" not in part)
    assert described(without).gateways.startswith("refused: policies hold")
    unbound = unguarded.replace("labels: {istio.io/use-waypoint: waypoint}", "labels: {}")
    assert described(unbound).gateways == "call it directly"


def test_who_leads_to_it_from_outside() -> None:
    assert described(WELL).exposed == ()
    api = """
kind: HTTPRoute
apiVersion: gateway.networking.k8s.io/v1
metadata: {name: api, namespace: shop}
spec: {parentRefs: [{name: runs}], hostnames: [b.test], rules: [{backendRefs: [{name: cart, port: 80}]}]}
"""
    rule = virtual_service("out", "{hosts: [a.test], gateways: [edge, mesh], http: [{route: [{destination: {host: cart}}]}]}")
    root = virtual_service("root", "{hosts: [c.test], gateways: [edge], http: [{delegate: {name: team}}]}")
    team = virtual_service("team", "{http: [{route: [{destination: {host: cart}}]}]}")
    other = virtual_service("other", "{hosts: [d.test], gateways: [edge], http: [{route: [{destination: {host: elsewhere.test}}]}]}")
    assert described("\n---\n".join((WELL, EDGE, api, rule, root, team, other))).exposed == (
        "VirtualService shop/out at shop/edge, for a.test",
        "VirtualService shop/root at shop/edge, for c.test",
        "HTTPRoute shop/api at shop/runs, for b.test",
    )


def test_a_service_that_is_not_there() -> None:
    with pytest.raises(LookupError, match="there is no service"):
        described(WELL, "till")
