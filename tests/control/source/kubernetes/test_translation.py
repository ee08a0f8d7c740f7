"""Objects of the API server as changes: the same meaning as in a file, and nothing that somebody wrote breaks it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from control.kinds import AuthorizationPolicy, EndpointSlice, Kind, Pod
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.status import describe
from control.source import Reject, Upsert
from control.source.kubernetes.resources import BUILT_IN, CUSTOM, ResourceType, custom_type
from control.source.kubernetes.translation import translate
from kubeapi.watching import Item

PODS = next(resource for resource in BUILT_IN if resource.kind is Kind.POD)
POLICIES = ResourceType(Kind.AUTHORIZATION_POLICY, "security.istio.io", "v1", "authorizationpolicies")
META = {"name": "a", "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "managedFields": [{"manager": "x"}]}


def item(content: object) -> Item:
    return Item("shop", "a", "7", json.dumps(content).encode())


def test_a_pod_is_read_without_keeping_its_manifest() -> None:
    pod = {"metadata": META, "spec": {"nodeName": "n1", "serviceAccountName": "cart"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}
    change = translate(PODS, item(pod), "istio-system")
    assert isinstance(change, Upsert)
    assert isinstance(change.object, Pod)
    assert (change.object.metadata.uid, change.object.spec.node_name, change.object.addresses) == ("u-1", "n1", ("10.0.0.1",))
    assert (change.manifest, str(change.origin)) == ({}, "Kubernetes")


def test_what_was_read_of_it_can_still_be_shown() -> None:
    mesh = Mesh(MeshSettings())
    mesh.apply([translate(PODS, item({"metadata": META, "spec": {"nodeName": "n1"}}), "istio-system")])
    found = describe(mesh, Kind.POD, "shop", "a")
    assert found is not None
    assert (found.manifest["apiVersion"], found.manifest["kind"], found.manifest["spec"]["nodeName"]) == ("v1", "Pod", "n1")


def test_what_the_api_server_writes_as_null_is_absent() -> None:
    slices = next(resource for resource in BUILT_IN if resource.kind is Kind.ENDPOINT_SLICE)
    change = translate(slices, item({"metadata": META, "addressType": "IPv4", "endpoints": None, "ports": None}), "istio-system")
    assert isinstance(change, Upsert)
    assert isinstance(change.object, EndpointSlice)
    assert change.object.endpoints == ()


def test_a_policy_keeps_what_was_written_for_whoever_asks() -> None:
    spec = {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["80"]}}]}]}
    change = translate(POLICIES, item({"metadata": dict(META), "spec": spec}), "istio-system")
    assert isinstance(change, Upsert)
    assert isinstance(change.object, AuthorizationPolicy)
    assert change.manifest["spec"] == spec
    assert "managedFields" not in change.manifest["metadata"]


def test_a_policy_that_can_not_be_understood_denies() -> None:
    for spec in ({"rules": [{"from": [{"sorce": {}}]}]}, {"action": "PERHAPS"}, {"rules": [{"from": None}]}, 7):
        change = translate(POLICIES, item({"metadata": dict(META), "spec": spec}), "istio-system")
        assert isinstance(change, Reject), spec
        assert change.closed is not None
        assert change.findings


def test_a_nesting_bomb_is_one_bad_policy() -> None:
    bomb: object = {}
    for _ in range(200):
        bomb = {"a": bomb}
    change = translate(POLICIES, item({"metadata": dict(META), "spec": bomb}), "istio-system")
    assert isinstance(change, Reject)
    assert change.closed is not None


NAMES = ["spec", "rules", "from", "to", "source", "metadata", "labels", "status", "endpoints", "ports", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


@given(st.sampled_from([*BUILT_IN, *(found for name in CUSTOM if (found := custom_type(name, ("v1", "v1beta1"))) is not None)]), JSON)
def test_nothing_that_is_written_breaks_it(resource: ResourceType, content: object) -> None:
    written = {**content, "metadata": META} if isinstance(content, dict) else content
    change = translate(resource, item(written), "istio-system")
    assert isinstance(change, Upsert | Reject)
    assert change.key.kind is resource.kind


def test_the_best_version_that_is_served() -> None:
    name = "serviceentries.networking.istio.io"
    found = custom_type(name, ("v1alpha3", "v1beta1"))
    assert found is not None
    assert found.path == "/apis/networking.istio.io/v1beta1/serviceentries"
    assert custom_type(name, ("v9",)) is None
    assert custom_type("others.example.com", ("v1",)) is None
