"""Which way gateways go to services with a waypoint: past it, or through it where that is asked for or nothing else is let in."""

from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from control.envoy.built import CLUSTER, ENDPOINTS
from tests.control.envoy.gateways.test_gateway import Edge, bound, http, istio_gateway, to
from tests.control.envoy.test_waypoint import pod, service
from tests.control.envoy.validation import validate

GATE = """
    kind: Gateway
    apiVersion: gateway.networking.k8s.io/v1
    metadata: {name: gate, namespace: shop}
    spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""
GATE_SERVICE = """
    kind: Service
    apiVersion: v1
    metadata: {name: gate, namespace: shop}
    spec: {clusterIP: 10.96.0.200, selector: {app: gate}, ports: [{name: mesh, port: 15008}]}
"""


def gate_pod(name: str, address: str, ready: bool = True) -> str:
    labels = "{app: gate, gateway.networking.k8s.io/gateway-name: gate, istio.io/dataplane-mode: none}"
    return pod(name, "gate", address, ready=ready).replace("{app: gate, version: v1, istio.io/dataplane-mode: ambient}", labels)


POLICY = """
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: p, namespace: shop}
    spec: {targetRefs: [{kind: Service, name: front, group: ""}], rules: [{}]}
"""
RULE = """
    kind: DestinationRule
    apiVersion: networking.istio.io/v1
    metadata: {name: front, namespace: shop}
    spec: {host: front, trafficPolicy: {tls: {mode: SIMPLE}}, subsets: [{name: v1, labels: {version: v1}}]}
"""
NAME = "inbound-vip|80|http|front.shop.svc.cluster.local"
ASKED = {"istio.io/ingress-use-waypoint": "true"}


def edge(*more: str, ingress: str = "", waypoint: tuple[str, ...] = (GATE, GATE_SERVICE, gate_pod("gate-1", "10.0.0.30"))) -> Edge:
    label = f'gate, istio.io/ingress-use-waypoint: "{ingress}"' if ingress else "gate"
    found = Edge(istio_gateway("edge", http()), bound("front", "hosts: [front.example], " + to("front")))
    found.write("front.yaml", service("front", "10.96.0.20", label=label), pod("front-1", "front", "10.0.0.20"), *more)
    found.write("gate.yaml", *waypoint)
    return found


def ways(found: Edge, name: str = NAME) -> list[tuple[str, str, str]]:
    """Of each endpoint: what it is asked for, by which tunnel, and who must be there."""
    places = found.of(ENDPOINTS)[name].endpoints
    told = [MessageToDict(one.metadata)["filterMetadata"] for place in places for one in place.lb_endpoints]
    original = [one["envoy.filters.listener.original_dst"] for one in told]
    return [
        (where["local"], where.get("waypoint", ""), one["nodemesh.endpoint"]["identity"]) for where, one in zip(original, told, strict=True)
    ]


DIRECT = [("10.0.0.20:8080", "", "spiffe://cluster.local/ns/shop/sa/front")]
THROUGH = [("10.96.0.20:80", "10.0.0.30:15008", "spiffe://cluster.local/ns/shop/sa/gate")]


def test_past_it_unless_it_is_asked_for_or_nothing_else_is_let_in() -> None:
    assert ways(edge()) == DIRECT
    assert ways(edge(ingress="false")) == DIRECT
    assert ways(edge(ingress="true")) == THROUGH
    assert ways(edge(POLICY)) == THROUGH, "its endpoints take no others"
    found = edge(POLICY)
    found.write("gate.yaml", "")
    assert ways(found) == DIRECT, "where nobody is let in; never another way in"


def test_what_holds_at_the_waypoint_does_not_hold_twice(tmp_path: Path) -> None:
    found = edge(RULE, ingress="true")
    cluster = found.of(CLUSTER)[NAME]
    plain = edge(ingress="true").of(CLUSTER)[NAME]
    assert cluster == plain
    found.write(
        "more.yaml",
        istio_gateway("edge", http()),
        bound("front", "hosts: [front.example], http: [{route: [{destination: {host: front, subset: v1}}]}]"),
    )
    assert ways(found, NAME.replace("|http|", "|http/v1|")) == THROUGH
    validate(tmp_path, found.view)


def test_endpoints_of_the_waypoint_as_they_come_and_go() -> None:
    found = edge(ingress="true")
    found.write("gate-2.yaml", gate_pod("gate-2", "10.0.0.31"), gate_pod("gate-3", "10.0.0.32", ready=False))
    assert [via for _, via, _ in ways(found)] == ["10.0.0.30:15008", "10.0.0.31:15008"]


@pytest.mark.parametrize("stated", ["192.0.2.9", "gate.shop.svc.cluster.local"])
def test_a_waypoint_that_says_where_it_is(stated: str) -> None:
    kind = "IPAddress" if stated[0].isdigit() else "Hostname"
    placed = GATE.replace("spec: {", f"spec: {{addresses: [{{type: {kind}, value: {stated}}}], ")
    (way,) = ways(edge(ingress="true", waypoint=(placed, GATE_SERVICE, gate_pod("gate-1", "10.0.0.30"))))
    assert way == (THROUGH[0][0], "192.0.2.9:15008" if kind == "IPAddress" else "10.0.0.30:15008", THROUGH[0][2])


def test_a_waypoint_that_is_not_ready_is_no_way() -> None:
    found = edge(ingress="true", waypoint=(GATE, GATE_SERVICE, gate_pod("gate-1", "10.0.0.30", ready=False)))
    assert ways(found) == []
