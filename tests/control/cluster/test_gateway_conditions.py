"""The status of Gateways and routes as it is written: what stands there already is left, times of conditions are kept."""

from typing import Any

from control.cluster.gateway_conditions import gateway_patch, route_patch
from control.envoy.gateways.status import GatewayState, ListenerStatus, ParentState, Said
from control.kinds.gateway import GatewayAddress
from control.kinds.gateway_routes import ParentReference

NOW, LATER = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"
META = {"resourceVersion": "7", "generation": 3}
STATE = GatewayState(
    (Said("Accepted", holds=True, reason="Accepted"),),
    (ListenerStatus("web", ("HTTPRoute",), 2, (Said("Programmed", holds=True, reason="Programmed"),)),),
    (GatewayAddress("edge.infra.svc.cluster.local", "Hostname"),),
)
OURS = "nodemesh.io/gateway-controller"


def parent(*said: Said, name: str = "edge") -> ParentState:
    return ParentState(ParentReference(name, namespace="infra"), OURS, said)


def written(status: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": META, "status": status}


def test_what_stands_there_is_not_written_again() -> None:
    first = gateway_patch(STATE, written({}), NOW)
    assert first is not None
    assert first.body["metadata"] == {"resourceVersion": "7"}
    assert first.status["addresses"] == [{"type": "Hostname", "value": "edge.infra.svc.cluster.local"}]
    (listener,) = first.status["listeners"]
    assert (listener["attachedRoutes"], listener["conditions"][0]["observedGeneration"]) == (2, 3)
    assert gateway_patch(STATE, written(first.status), LATER) is None


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = gateway_patch(STATE, written({}), NOW)
    assert first is not None
    other = GatewayState((Said("Accepted", holds=True, reason="ListenersNotValid"),), (), STATE.addresses)
    second = gateway_patch(other, written(first.status), LATER)
    assert second is not None
    assert second.status["conditions"][0]["lastTransitionTime"] == NOW
    third = gateway_patch(GatewayState((Said("Accepted", holds=False, reason="x"),), ()), written(second.status), LATER)
    assert third is not None
    assert third.status["conditions"][0]["lastTransitionTime"] == LATER


def test_conditions_of_others_stay() -> None:
    theirs = {"type": "example.com/Checked", "status": "True"}
    found = gateway_patch(STATE, written({"conditions": [theirs, {"type": "Accepted", "status": "False"}]}), NOW)
    assert found is not None
    assert [one["type"] for one in found.status["conditions"]] == ["example.com/Checked", "Accepted"]


def test_parents_that_others_speak_for_stay() -> None:
    theirs = {"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []}
    accepted = Said("Accepted", holds=True, reason="Accepted")
    found = route_patch([parent(accepted)], written({"parents": [theirs]}), NOW)
    assert found is not None
    assert found.status["parents"][0] == theirs
    assert found.status["parents"][1]["parentRef"] == {
        "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "infra", "name": "edge",
    }  # fmt: skip
    assert route_patch([parent(accepted)], written(found.status), LATER) is None


def test_a_parent_that_a_route_does_not_name_any_more_goes() -> None:
    accepted = Said("Accepted", holds=True, reason="Accepted")
    first = route_patch([parent(accepted), parent(accepted, name="two")], written({}), NOW)
    assert first is not None
    second = route_patch([parent(accepted)], written(first.status), LATER)
    assert second is not None
    assert [one["parentRef"]["name"] for one in second.status["parents"]] == ["edge"]
    assert [one["conditions"][0]["lastTransitionTime"] for one in second.status["parents"]] == [NOW]
    last = route_patch([], written(second.status), LATER)
    assert last is not None
    assert last.status == {"parents": []}


def test_a_route_of_others_alone_is_left() -> None:
    theirs = {"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []}
    assert route_patch([], written({"parents": [theirs]}), NOW) is None
    assert route_patch([], written({}), NOW) is None
