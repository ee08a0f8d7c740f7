"""Which waypoint services and workloads are bound to, and what keeps them from it."""

from ipaddress import ip_address

import pytest

from control.kinds.gateway import LabelRequirement, LabelSelector
from control.model.waypoints import label_selector_matches
from meshapi.authorization import Exact
from meshapi.workload import GatewayAddress, NetworkAddress, ServiceKey
from tests.control.model.builders import Config
from tests.control.model.waypoint_world import API, API_KEY, GATE, GATE_SERVICE, GUARD, NAMESPACE, USE, gateway, pod, policy, waypoint


@pytest.mark.parametrize(
    ("namespace", "own", "is_bound"),
    [
        ("", USE, True),
        (f", {USE}", "", True),
        (f", {USE}", "istio.io/use-waypoint: none", False),
        (", istio.io/use-waypoint: other", USE, True),
        (f", {USE}", "istio.io/use-waypoint: other", False),
        ("", "", False),
        (", istio.io/use-waypoint: none", "", False),
    ],
)
def test_the_own_label_wins_over_the_namespaces(namespace: str, own: str, is_bound: bool) -> None:
    config = Config(NAMESPACE % namespace + API % own + waypoint())
    assert config.service(API_KEY).waypoint == (GATE if is_bound else None)


@pytest.mark.parametrize(
    ("traffic", "service", "workload"),
    [
        ("", True, False),
        ("service", True, False),
        ("workload", False, True),
        ("all", True, True),
        ("none", False, False),
        ("x", False, False),
    ],
)
def test_what_a_waypoint_is_for(traffic: str, service: bool, workload: bool) -> None:
    labels = f"istio.io/waypoint-for: {traffic}" if traffic else ""
    config = Config(NAMESPACE % f", {USE}" + API % "" + pod() + waypoint(labels=labels))
    assert config.service(API_KEY).waypoint == (GATE if service else None)
    assert config.pod("shop", "api").waypoint == (GATE if workload else None)
    # A waypoint is not reached through itself.
    assert config.service("shop/gate.shop.svc.cluster.local").waypoint is None
    assert config.pod("shop", "gate").waypoint is None


@pytest.mark.parametrize(
    ("origin", "is_bound"),
    [
        ("from: Same", False),
        ("", False),
        ("from: All", True),
        ("from: Selector, selector: {matchLabels: {team: a}}", True),
        ("from: Selector, selector: {matchLabels: {team: b}}", False),
        ("from: Selector", False),
        ("from: Anything", False),
    ],
)
def test_a_waypoint_of_another_namespace_takes_whom_it_allows(origin: str, is_bound: bool) -> None:
    labels = f"{USE}, istio.io/use-waypoint-namespace: infra"
    config = Config(NAMESPACE % "" + API % labels + waypoint("infra", origin=origin))
    expected = GatewayAddress(service=ServiceKey("infra/gate.infra.svc.cluster.local"))
    assert config.service(API_KEY).waypoint == (expected if is_bound else None)


ADDRESSED = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec: {gatewayClassName: nodemesh-waypoint, addresses: [%s], listeners: []}
status: {addresses: [%s]}
---
"""


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        ("", "{type: Hostname, value: w.shop.svc.cluster.local}", GatewayAddress(service=ServiceKey("shop/w.shop.svc.cluster.local"))),
        (
            "",
            "{value: 10.96.0.7}, {type: Hostname, value: w.shop.svc.cluster.local}",
            GatewayAddress(service=ServiceKey("shop/w.shop.svc.cluster.local")),
        ),
        ("{value: 10.0.0.8}", "", GatewayAddress(address=NetworkAddress(ip_address("10.0.0.8")))),
        ("{value: 10.0.0.8}", "{value: 'fd00::8'}", GatewayAddress(address=NetworkAddress(ip_address("fd00::8")))),
        ("{value: 127.0.0.1}", "", None),
        ("", "", None),
    ],
)
def test_where_a_waypoint_is(spec: str, status: str, expected: GatewayAddress | None) -> None:
    config = Config(API % USE + ADDRESSED % (spec, status))
    assert config.service(API_KEY).waypoint == expected


def test_any_class_may_take_tunnels_and_others_are_no_waypoints() -> None:
    assert Config(API % USE + gateway(kind="somebodys") + GATE_SERVICE % "shop").service(API_KEY).waypoint == GATE
    plain = gateway(kind="istio").replace("HBONE", "HTTP")
    assert Config(API % USE + plain + GATE_SERVICE % "shop").service(API_KEY).waypoint is None


def test_waypoints_come_and_go() -> None:
    config = Config(API % USE + pod())
    assert config.service(API_KEY).waypoint is None
    config.write("gate.yaml", gateway())
    assert config.service(API_KEY).waypoint is None
    config.write("service.yaml", GATE_SERVICE % "shop")
    assert config.service(API_KEY).waypoint == GATE
    config.write("gate.yaml", gateway(labels="istio.io/waypoint-for: workload"))
    assert config.service(API_KEY).waypoint is None
    config.write("gate.yaml", "")
    assert config.service(API_KEY).waypoint is None


def test_an_application_with_the_name_of_a_waypoint_elsewhere_is_not_taken_for_it() -> None:
    config = Config(
        API % "istio.io/use-waypoint: api" + pod() + ADDRESSED.replace("name: gate", "name: api") % ("{value: 10.0.0.8}", "") + policy()
    )
    assert config.service(API_KEY).waypoint == GatewayAddress(address=NetworkAddress(ip_address("10.0.0.8")))
    assert config.policy(GUARD).rules[0][0][0].not_principals == (Exact("cluster.local/ns/shop/sa/api"),)


def test_service_entries_and_workload_entries_are_bound_too() -> None:
    entries = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: ext, namespace: shop, labels: {{{USE}, istio.io/ingress-use-waypoint: "true"}}}}
spec: {{hosts: [ext.example], addresses: [10.97.0.1], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: vm, namespace: shop, labels: {{{USE}}}}}
spec: {{address: 10.0.0.3, serviceAccount: vm}}
---
"""
    config = Config(entries + waypoint(labels="istio.io/waypoint-for: all"))
    assert config.service("shop/ext.example").waypoint == GATE
    assert config.service("shop/ext.example").ingress_use_waypoint
    assert config.workload("Kubernetes/networking.istio.io/WorkloadEntry/shop/vm").waypoint == GATE


def test_label_expressions() -> None:
    def matches(operator: str, *values: str) -> bool:
        return label_selector_matches(LabelSelector(match_expressions=(LabelRequirement("team", operator, values),)), {"team": "a"})

    assert [matches("In", "a", "b"), matches("In", "b"), matches("NotIn", "b"), matches("NotIn", "a")] == [True, False, True, False]
    assert [matches("Exists"), matches("DoesNotExist"), matches("Near")] == [True, False, False]
    assert label_selector_matches(LabelSelector(), {})
