"""What Gateways and routes are told of themselves, in the Gateway API's words."""

import pytest

from control.envoy.gateways.status import gateway_state, is_ours, refused, refused_route, route_state
from control.kinds import GatewayClass, Kind, ObjectKey
from control.kinds.gateway import GatewayClassSpec
from control.kinds.gateway_routes import ParentReference
from control.kinds.metadata import Meta
from tests.control.envoy.gateways.test_gateway import LISTENERS, Edge, api_route, backend, gateway
from tests.control.envoy.test_waypoint import service

EDGE = ObjectKey(Kind.GATEWAY, "infra", "edge")


def said(conditions) -> dict[str, str]:
    """Reasons by type, those that do not hold with a `!`."""
    return {one.type: f"{'' if one.holds else '!'}{one.reason}" for one in conditions}


def route(edge: Edge, name: str, kind: Kind = Kind.HTTP_ROUTE) -> list[dict[str, str]]:
    return [said(one.conditions) for one in route_state(edge.world, ObjectKey(kind, "shop", name))]


def test_listeners_and_what_is_attached_to_them() -> None:
    edge = Edge(
        api_route("one", "hostnames: [a.example], " + backend("cart"), section="web"),
        api_route("two", backend("cart"), section="web"),
        api_route("none", "hostnames: [a.test], " + backend("cart"), section="web"),
        api_route("db", backend("db", 3306), kind="TCPRoute"),
        own=gateway(LISTENERS),
    )
    state = gateway_state(edge.world, EDGE)
    assert state is not None
    assert said(state.conditions) == {"Accepted": "ListenersNotValid", "Programmed": "!AddressNotAssigned"}
    found = {one.name: one for one in state.listeners}
    assert {name: one.attached for name, one in found.items()} == {"web": 2, "own": 0, "tls": 0, "far": 0, "pass": 1, "tcp": 1}
    assert found["web"].kinds == ("HTTPRoute", "GRPCRoute")
    fine = {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs", "Programmed": "Programmed", "Conflicted": "!NoConflicts"}
    assert said(found["web"].conditions) == fine
    assert said(found["far"].conditions) == fine | {"ResolvedRefs": "!RefNotPermitted", "Programmed": "!Invalid"}


def test_two_listeners_in_conflict() -> None:
    edge = Edge(own=gateway("[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP}]"))
    state = gateway_state(edge.world, EDGE)
    assert state is not None
    assert [said(one.conditions)["Accepted"] for one in state.listeners] == ["Accepted", "!ProtocolConflict"]
    assert [said(one.conditions)["Conflicted"] for one in state.listeners] == ["!NoConflicts", "ProtocolConflict"]


def test_gateways_of_others_are_theirs_to_tell_of() -> None:
    edge = Edge(own=gateway(LISTENERS).replace("nodemesh", "theirs"))
    edge.write("more.yaml", api_route("one", backend("cart")))
    assert gateway_state(edge.world, EDGE) is None
    assert route(edge, "one") == []


@pytest.mark.parametrize(
    ("spec", "section", "accepted", "resolved"),
    [
        ("hostnames: [a.example], " + backend("cart"), "web", "Accepted", "ResolvedRefs"),
        (backend("cart"), "nowhere", "!NoMatchingParent", "ResolvedRefs"),
        (backend("cart"), "own", "!NotAllowedByListeners", "ResolvedRefs"),
        (backend("cart"), "tcp", "!NotAllowedByListeners", "ResolvedRefs"),
        ("hostnames: [a.test], " + backend("cart"), "web", "!NoMatchingListenerHostname", "ResolvedRefs"),
        (backend("nobody"), "web", "Accepted", "!BackendNotFound"),
        (backend("cart", 81), "web", "Accepted", "!BackendNotFound"),
        ("rules: [{backendRefs: [{name: cart, namespace: other, port: 80}]}]", "web", "Accepted", "!RefNotPermitted"),
        ("rules: [{backendRefs: [{name: b, kind: Bucket, group: x.example}]}]", "web", "Accepted", "!InvalidKind"),
    ],
)
def test_what_becomes_of_a_route(spec: str, section: str, accepted: str, resolved: str) -> None:
    edge = Edge(api_route("one", spec, section=section), own=gateway(LISTENERS))
    assert route(edge, "one") == [{"Accepted": accepted, "ResolvedRefs": resolved}]


def test_a_route_of_a_service() -> None:
    attached = api_route("one", backend("web")).replace("{name: edge, namespace: infra}", "{group: '', kind: Service, name: cart}")
    assert route(Edge(attached), "one") == [{"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}]


def test_a_waypoint() -> None:
    edge = Edge(
        own=gateway("[{name: mesh, port: 15008, protocol: HBONE}, {name: web, port: 80, protocol: HTTP}]").replace(
            "nodemesh", "istio-waypoint"
        )
    )
    edge.write("service.yaml", service("edge", "10.96.0.7", "[{port: 15008}]").replace("namespace: shop", "namespace: infra"))
    state = gateway_state(edge.world, EDGE)
    assert state is not None
    assert said(state.conditions) == {"Accepted": "ListenersNotValid", "Programmed": "Programmed"}
    assert [said(one.conditions)["Accepted"] for one in state.listeners] == ["Accepted", "!UnsupportedProtocol"]
    assert [one.value for one in state.addresses] == ["edge.infra.svc.cluster.local"]


def test_what_is_not_valid() -> None:
    edge = Edge(own=gateway(LISTENERS))
    found = refused(gateway_state(edge.world, EDGE), "it is not.")
    assert said(found.conditions) == {"Accepted": "!Invalid", "Programmed": "!Invalid"}
    assert found.listeners, "of what is in force"
    parents = [ParentReference("edge", namespace="infra"), ParentReference("other"), ParentReference("cart", group="", kind="Service")]
    told = refused_route(edge.world, "shop", parents, "it is not.")
    assert [(one.parent.name, said(one.conditions)) for one in told] == [
        (name, {"Accepted": "!UnsupportedValue"}) for name in ("edge", "cart")
    ]


@pytest.mark.parametrize(
    ("name", "controller", "ours"),
    [
        ("nodemesh", "nodemesh.io/gateway-controller", True),
        ("istio-waypoint", "istio.io/mesh-controller", True),
        ("istio", "example.com/other", False),
        ("other", "nodemesh.io/gateway-controller", False),
    ],
)
def test_classes(name: str, controller: str, ours: bool) -> None:
    assert is_ours(GatewayClass(metadata=Meta(name, ""), spec=GatewayClassSpec(controller))) == ours
