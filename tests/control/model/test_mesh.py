"""The mesh as the controller uses it: cost of changes, rejection, placement, look-ups."""

from collections import Counter

import pytest

from control.kinds import Kind
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.status import describe, objects
from control.resources import Changes, Placement, ResourceView
from control.source import FileFindings, Synced
from control.validation.finding import Finding, Origin, Severity
from meshapi import wire
from meshapi.authorization import Action
from meshapi.spiffe import WorkloadIdentity
from tests.control.model.builders import Config

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, action: %s, rules: [{from: [{source: {%s: [a]}}]}]}
"""


def pod(index: int, address: str = "", labels: str = "") -> str:
    name = f"p{index}"
    ip = address or f"10.{index >> 8}.{index & 255}.1"
    return f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: s{index % 100}{labels}}}}}
spec: {{nodeName: n{index % 10}, serviceAccountName: sa{index % 100}}}
status: {{podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: "True"}}]}}
"""


def service(index: int, port: int = 80) -> str:
    return f"""
---
apiVersion: v1
kind: Service
metadata: {{name: s{index}, namespace: shop}}
spec: {{clusterIP: 10.96.{index}.1, selector: {{app: s{index}}}, ports: [{{port: {port}}}]}}
"""


@pytest.fixture(scope="module")
def big() -> Config:
    """1,000 pods, 100 services of 10 pods each, 10 nodes."""
    config = Config()
    for index in range(1000):
        config.write(f"p{index}.yaml", pod(index))
    for index in range(100):
        config.write(f"s{index}.yaml", service(index))
    for index in range(10):
        config.write(f"n{index}.yaml", f"apiVersion: v1\nkind: Node\nmetadata: {{name: n{index}}}")
    return config


@pytest.mark.parametrize(
    ("file", "change", "restore", "derivations", "changed"),
    [
        ("p7.yaml", pod(7, "10.200.0.1"), pod(7), {Kind.POD: 1}, 1),
        ("p7.yaml", "", pod(7), {}, 1),
        ("p7.yaml", pod(7, labels=", extra: a"), pod(7), {Kind.POD: 1}, 0),
        ("s7.yaml", service(7, 81), service(7), {Kind.SERVICE: 1, Kind.POD: 10}, 12),
        ("s7.yaml", service(7).replace("clusterIP: 10.96.7.1", "clusterIP: 10.97.7.1"), service(7), {Kind.SERVICE: 1}, 2),
        ("new.yaml", service(7).replace("name: s7", "name: other").replace("10.96.7.1", "None"), "", {Kind.SERVICE: 1, Kind.POD: 10}, 12),
        ("a.yaml", POLICY.replace("app: web", "app: s7") % ("DENY", "namespaces"), "", {Kind.AUTHORIZATION_POLICY: 1, Kind.POD: 10}, 11),
    ],
)
def test_a_change_costs_what_it_touches(
    big: Config, file: str, change: str, restore: str, derivations: dict[Kind, int], changed: int
) -> None:
    """With a service, the names of its namespace change."""
    heard: list[Changes] = []
    before = Counter(big.mesh.derivations)
    end = big.mesh.watch(heard.append)
    big.write(file, change)
    end()
    assert big.mesh.derivations - before == Counter(derivations)
    assert sum(len(names) for changes in heard for names in changes.values()) == changed
    big.write(file, restore)


def test_a_policys_rules_do_not_touch_workloads(big: Config) -> None:
    big.write("a.yaml", POLICY.replace("app: web", "app: s7") % ("DENY", "namespaces"))
    before = Counter(big.mesh.derivations)
    big.write("a.yaml", POLICY.replace("app: web", "app: s7") % ("DENY", "principals"))
    assert big.mesh.derivations - before == Counter({Kind.AUTHORIZATION_POLICY: 1})
    big.write("a.yaml", "")


def test_it_is_what_the_controller_reads() -> None:
    mesh = Mesh(MeshSettings())
    view: ResourceView = mesh
    placement: Placement = mesh
    assert not view.names(wire.ADDRESS_TYPE)
    assert not placement.has_node("n1")
    assert not mesh.synced
    mesh.apply([Synced()])
    assert mesh.synced


def test_a_service_is_found_by_key_and_address_with_its_members() -> None:
    config = Config(pod(1) + pod(101) + pod(2) + service(1))
    key = "shop/s1.shop.svc.cluster.local"
    assert config.mesh.resolve(wire.ADDRESS_TYPE, key) == (key,)
    assert config.mesh.resolve(wire.ADDRESS_TYPE, "/10.96.1.1") == (key,)
    assert config.mesh.resolve(wire.ADDRESS_TYPE, "other/10.96.1.1") == ()
    assert config.mesh.members(wire.ADDRESS_TYPE, key) == ("Kubernetes//Pod/shop/p1", "Kubernetes//Pod/shop/p101")
    assert config.mesh.members(wire.ADDRESS_TYPE, "Kubernetes//Pod/shop/p1") == ()


def test_versions_are_of_the_content() -> None:
    first, second = Config(pod(1)), Config(pod(2) + pod(1))
    name = "Kubernetes//Pod/shop/p1"
    assert first.mesh.get(wire.ADDRESS_TYPE, name) == second.mesh.get(wire.ADDRESS_TYPE, name)


def test_who_ends_a_watch_hears_no_more() -> None:
    config = Config()
    heard: list[Changes] = []
    end = config.mesh.watch(heard.append)
    config.mesh.watch(heard.append)
    end()
    end()
    config.write("a.yaml", pod(1))
    assert len(heard) == 1


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded", "Failed", "Unknown"])
def test_placement_needs_a_live_pod_on_a_known_node(phase: str) -> None:
    identity = WorkloadIdentity("cluster.local", "shop", "sa1")
    config = Config(pod(1).replace("status: {", f"status: {{phase: {phase}, "))
    assert not config.mesh.runs_on(identity, "n1")
    config.write("n.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n")
    assert config.mesh.has_node("n1")
    assert config.mesh.runs_on(identity, "n1") == (phase in {"Pending", "Running"})
    assert not config.mesh.runs_on(identity, "n2")
    assert not config.mesh.runs_on(identity, "")
    assert not config.mesh.runs_on(WorkloadIdentity("other.example", "shop", "sa1"), "n1")
    assert not config.mesh.runs_on(WorkloadIdentity("cluster.local", "shop", "sa2"), "n1")
    config.write("a.yaml", "")
    assert not config.mesh.runs_on(identity, "n1")


def test_an_object_that_turns_bad_keeps_its_last_good_form() -> None:
    config = Config(POLICY % ("DENY", "namespaces"))
    good = config.policy("shop/p")
    config.write("a.yaml", POLICY % ("DENY", "namespace"))
    assert config.policy("shop/p") == good
    description = describe(config.mesh, Kind.AUTHORIZATION_POLICY, "shop", "p")
    assert description is not None
    assert not description.accepted
    condition = description.manifest["status"]["conditions"][-2]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Accepted", "False", "Invalid")
    assert "a.yaml:5" in condition["message"]
    assert "unknown field 'namespace'" in condition["message"]
    assert "its last good form stays in force" in condition["message"]
    config.write("a.yaml", POLICY % ("ALLOW", "namespaces"))
    assert config.policy("shop/p").action is Action.ALLOW


@pytest.mark.parametrize(("action", "rules"), [("ALLOW", ()), ("DENY", ((),)), ("CUSTOM", ((),)), ("TYPO", ((),))])
def test_a_policy_that_never_was_good_denies(action: str, rules: tuple[object, ...]) -> None:
    config = Config(POLICY % (action, "namespace"))
    policy = config.policy("shop/p")
    assert policy.action is (Action.ALLOW if action == "ALLOW" else Action.DENY)
    assert policy.rules == rules
    description = describe(config.mesh, Kind.AUTHORIZATION_POLICY, "shop", "p")
    assert description is not None
    assert "a policy that denies stands in for it" in description.conditions[0].message
    # A second bad form is not the first one's successor: the newest closed form holds.
    config.write("a.yaml", (POLICY % (action, "namespace")).replace("app: web", "app: db"))
    assert config.mesh.store.get(next(iter(config.mesh.records))).selector == {"app": "db"}  # type: ignore[union-attr]


def test_a_peer_authentication_that_never_was_good_is_strict() -> None:
    text = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p, namespace: shop}
spec: {mtls: {mode: LAX}}
"""
    config = Config(text + pod(1))
    assert config.pod("shop", "p1").authorization_policies == ("istio-system/istio_converted_static_strict",)


def test_a_policy_that_is_removed_is_gone() -> None:
    config = Config(POLICY % ("DENY", "namespace"))
    config.write("a.yaml", "")
    assert config.policies == set()
    assert not config.mesh.records


@pytest.mark.parametrize("kind", ["pods", "Pod", "po", "POD", ""])
def test_objects_are_listed_by_kind_in_any_form(kind: str) -> None:
    config = Config(pod(1) + pod(2))
    assert [one.name for one in objects(config.mesh, kind, "", "").objects] == ["p1", "p2"]
    assert [one.name for one in objects(config.mesh, kind, "shop", "p2").objects] == ["p2"]
    assert not objects(config.mesh, kind, "other", "").objects


def test_what_is_not_there_is_said() -> None:
    config = Config(pod(1))
    with pytest.raises(LookupError, match="there is no pod shop/x"):
        objects(config.mesh, "pod", "shop", "x")
    with pytest.raises(LookupError, match="there is no kind 'gizmo'"):
        objects(config.mesh, "gizmo", "", "")
    assert describe(config.mesh, Kind.POD, "shop", "x") is None


def test_findings_of_files_come_and_go() -> None:
    mesh = Mesh(MeshSettings())
    finding = Finding(Origin("x.yaml", 3), Severity.ERROR, "not YAML")
    mesh.apply([FileFindings("x.yaml", (finding,))])
    assert objects(mesh, "", "", "").files == ("x.yaml:3: error: not YAML",)
    mesh.apply([FileFindings("x.yaml")])
    assert objects(mesh, "", "", "").files == ()


def test_bound_workloads_are_counted() -> None:
    config = Config(pod(1) + pod(101) + pod(2) + service(1))
    config.write("b.yaml", POLICY.replace("app: web", "app: s1") % ("DENY", "namespaces"))
    config.write("c.yaml", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: m, namespace: istio-system}\n")
    config.write("d.yaml", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: n, namespace: istio-system}\n")
    bound = {(one.kind, one.name): one.bound for one in objects(config.mesh, "", "", "").objects}
    assert bound[("Service", "s1")] == 2
    assert bound[("AuthorizationPolicy", "p")] == 2
    assert bound[("PeerAuthentication", "m")] == 3
    assert bound[("Pod", "p1")] is None
    shadowed = describe(config.mesh, Kind.PEER_AUTHENTICATION, "istio-system", "n")
    assert shadowed is not None
    assert "PeerAuthentication istio-system/m is older" in shadowed.conditions[1].message


def test_a_policy_comes_before_it_is_named_and_goes_after() -> None:
    # An agent closes what is open at a workload that names a policy which is not there.
    config = Config()
    config.write("pod.yaml", pod(1).replace("s1", "web"))
    heard: list[list[str]] = []
    config.mesh.watch(lambda changes: heard.append([type_url.rpartition(".")[2] for type_url in changes]))
    config.write("policy.yaml", POLICY % ("DENY", "namespaces"))
    config.write("policy.yaml", "")
    assert heard == [["Authorization", "Address"], ["Address", "Authorization"]]
