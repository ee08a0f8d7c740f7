"""What is written into the status of policies and entries: pure, stable, and never over what somebody else wrote there."""

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


ENTRIES = ResourceType(Kind.SERVICE_ENTRY, "networking.istio.io", "v1", "serviceentries")
MACHINES = ResourceType(Kind.WORKLOAD_ENTRY, "networking.istio.io", "v1", "workloadentries")
HTTP = {"number": 80, "name": "http"}


def entry(name: str, spec: object, namespace: str = "crowd-0") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "generation": 1, "resourceVersion": "5"}, "spec": spec}


def told(mesh: Mesh, kind: Kind, name: str, namespace: str = "crowd-0") -> dict[str, tuple[str, str, str]]:
    """What would be written of an object, by type: status, reason, message."""
    found = describe(mesh, kind, namespace, name)
    assert found is not None
    patch = patch_for(found, mesh.records[ObjectKey(kind, namespace, name)].manifest, NOW)
    assert patch is not None
    return {one["type"].removeprefix("nodemesh.io/"): (one["status"], one["reason"], one["message"]) for one in patch.conditions}


def entries(*found: tuple[ResourceType, dict[str, Any]]) -> Mesh:
    mesh = Mesh(MeshSettings())
    mesh.apply([translate(PODS, item(crowd_pod("crowd", number)), "istio-system") for number in range(3)])
    mesh.apply([translate(resource, item(content), "istio-system") for resource, content in found])
    return mesh


def test_entries_say_what_they_are_bound_to() -> None:
    machines = [entry(f"m{number}", {"address": f"192.0.2.{number}", "labels": {"app": "db"}}) for number in (1, 2)]
    database = {"hosts": ["db.example.com"], "ports": [HTTP], "resolution": "STATIC", "workloadSelector": {"labels": {"app": "db"}}}
    lonely = entry("alone", {"address": "192.0.2.9"})
    mesh = entries((ENTRIES, entry("db", database)), *((MACHINES, one) for one in (*machines, lonely)))
    assert told(mesh, Kind.SERVICE_ENTRY, "db")["Bound"] == ("True", "Workloads", "2 workloads")
    assert told(mesh, Kind.SERVICE_ENTRY, "db")["Served"] == ("True", "Served", "all of it is served")
    assert told(mesh, Kind.WORKLOAD_ENTRY, "m1")["Bound"] == ("True", "Services", "1 services")
    assert told(mesh, Kind.WORKLOAD_ENTRY, "alone")["Bound"] == ("False", "NoServices", "0 services")


def test_an_entry_that_is_found_by_name_is_bound_to_nothing_that_could_be_counted() -> None:
    mesh = entries((ENTRIES, entry("out", {"hosts": ["example.com"], "ports": [HTTP], "resolution": "DNS"})))
    assert set(told(mesh, Kind.SERVICE_ENTRY, "out")) == {"Accepted", "Served"}


def test_entries_that_want_what_is_another_s() -> None:
    pod_address = crowd_pod("crowd", 1)["status"]["podIP"]
    owner = crowd_pod("crowd", 1)["metadata"]["namespace"]
    host = {"hosts": ["web.elsewhere.svc.cluster.local"], "ports": [HTTP], "resolution": "STATIC"}
    mesh = entries(
        (MACHINES, entry("thief", {"address": pod_address}, "elsewhere")),
        (ENTRIES, entry("foreign", host)),
        (ENTRIES, entry("wrong", {"hosts": ["a.example.com"], "resolution": "PERHAPS"})),
    )
    status, reason, message = told(mesh, Kind.WORKLOAD_ENTRY, "thief", "elsewhere")["Accepted"]
    assert (status, reason) == ("False", "Conflict")
    assert f"the address {pod_address} belongs to a Pod of namespace {owner}" in message
    assert crowd_pod("crowd", 1)["metadata"]["name"] not in message, "how others call what is theirs is not told"
    status, reason, message = told(mesh, Kind.SERVICE_ENTRY, "foreign")["Accepted"]
    assert (status, reason) == ("False", "Conflict")
    assert "elsewhere" in message
    assert told(mesh, Kind.SERVICE_ENTRY, "foreign").get("Bound", ("False",))[0] == "False"
    status, reason, message = told(mesh, Kind.SERVICE_ENTRY, "wrong")["Accepted"]
    assert (status, reason) == ("False", "Invalid")
    assert "PERHAPS" in message


def test_two_entries_of_one_host_are_not_both_bound_to_its_workloads() -> None:
    spec = {"hosts": ["db.example.com"], "ports": [HTTP], "resolution": "STATIC", "endpoints": [{"address": "192.0.2.1"}]}
    mesh = entries((ENTRIES, entry("a", spec)), (ENTRIES, entry("b", spec | {"endpoints": [{"address": "192.0.2.2"}]})))
    assert told(mesh, Kind.SERVICE_ENTRY, "a")["Bound"] == ("True", "Workloads", "1 workloads")
    refused = told(mesh, Kind.SERVICE_ENTRY, "b")
    assert refused["Accepted"][:2] == ("False", "Conflict")
    assert "ServiceEntry crowd-0/a" in refused["Accepted"][2]
    assert refused["Bound"][0] == "False"
    assert "Served" not in refused


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
