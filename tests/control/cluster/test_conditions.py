"""What is written into a policy's status: pure, stable, and never over what somebody else wrote there."""

import json
from typing import Any

from control.cluster.conditions import patch_for
from control.kinds import Kind, ObjectKey
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.status import describe
from control.source.kubernetes.resources import ResourceType
from control.source.kubernetes.translation import translate
from kubeapi.watching import Item
from tests.kube.crowd import crowd_pod

POLICIES = ResourceType(Kind.AUTHORIZATION_POLICY, "security.istio.io", "v1", "authorizationpolicies")
PODS = ResourceType(Kind.POD, "", "v1", "pods")
NOW = "2026-01-01T00:00:00Z"


def item(content: dict[str, Any]) -> Item:
    meta = content["metadata"]
    return Item(meta["namespace"], meta["name"], meta.get("resourceVersion", "1"), json.dumps(content).encode())


def policy(spec: object, **status: object) -> dict[str, Any]:
    meta = {"name": "p", "namespace": "crowd-0", "generation": 3, "resourceVersion": "77"}
    return {"metadata": meta, "spec": spec} | ({"status": status} if status else {})


def written(content: dict[str, Any]) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The patch for a policy beside ten pods, and its conditions by type."""
    mesh = Mesh(MeshSettings())
    mesh.apply([translate(PODS, item(crowd_pod("crowd", number)), "istio-system") for number in range(10)])
    mesh.apply([translate(POLICIES, item(content), "istio-system")])
    found = describe(mesh, Kind.AUTHORIZATION_POLICY, "crowd-0", "p")
    assert found is not None
    patch = patch_for(found, mesh.records[POLICY_KEY].manifest, NOW)
    return patch, {one["type"]: one for one in patch.conditions if str(one.get("type")).startswith("nodemesh.io/")} if patch else {}


POLICY_KEY = ObjectKey(Kind.AUTHORIZATION_POLICY, "crowd-0", "p")
GOOD = {"selector": {"matchLabels": {"app": "s0"}}, "action": "DENY", "rules": [{"to": [{"operation": {"ports": ["80"]}}]}]}


def test_one_that_is_enforced_whole() -> None:
    patch, conditions = written(policy(GOOD))
    assert {name: (one["status"], one["reason"]) for name, one in conditions.items()} == {
        "nodemesh.io/Accepted": ("True", "Accepted"),
        "nodemesh.io/Enforced": ("True", "Enforced"),
        "nodemesh.io/Bound": ("True", "Workloads"),
    }
    assert conditions["nodemesh.io/Bound"]["message"] == "10 workloads"
    assert all(one["observedGeneration"] == 3 for one in conditions.values())
    assert (patch.version, patch.api_version) == ("77", "security.istio.io/v1")


def test_one_that_layer_4_can_not_see_says_why() -> None:
    _, conditions = written(policy({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}))
    enforced = conditions["nodemesh.io/Enforced"]
    assert (enforced["status"], enforced["reason"]) == ("False", "Limited")
    assert "methods" in enforced["message"]


def test_one_that_is_not_accepted_says_what_is_in_force() -> None:
    _, conditions = written(policy({"action": "PERHAPS"}))
    accepted = conditions["nodemesh.io/Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "Invalid")
    assert "a policy that denies stands in for it" in accepted["message"]
    assert "nodemesh.io/Enforced" not in conditions


def test_what_stands_there_already_is_not_written_again() -> None:
    patch, _ = written(policy(GOOD))
    again, _ = written(policy(GOOD, conditions=list(patch.conditions)))
    assert again is None


def test_what_others_wrote_stays_and_times_are_those_of_changes() -> None:
    others = [{"type": "Accepted", "status": "True"}, {"type": "example.com/Seen", "status": "False"}]
    patch, _ = written(policy(GOOD))
    older = [{**one, "lastTransitionTime": "2020-01-01T00:00:00Z"} for one in patch.conditions]
    older[2]["message"] = "9 workloads"
    older.append({"type": "nodemesh.io/Former", "status": "True"})
    patch, conditions = written(policy(GOOD, conditions=[*others, *older]))
    assert list(patch.conditions[:2]) == others
    assert "nodemesh.io/Former" not in conditions
    assert {conditions[f"nodemesh.io/{name}"]["lastTransitionTime"] for name in ("Accepted", "Bound")} == {"2020-01-01T00:00:00Z"}


def test_a_status_that_is_nonsense_is_replaced() -> None:
    for conditions in (7, "x", [7, None, {}], {"type": 1}):
        _, own = written(policy(GOOD, conditions=conditions))
        assert len(own) == 3
