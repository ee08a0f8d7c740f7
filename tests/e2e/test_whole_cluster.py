"""Kubernetes as all that anybody is told by: source of the controller, proof of the agents, runtime of the nodes."""

import time
from collections.abc import Iterator

import pytest

from demo.cluster import eventually
from tests.e2e.mesh import SECRET, echoes, principal, spiffe
from tests.e2e.whole_cluster import Whole, whole_cluster
from tests.kube.cluster import Cluster as Kube


@pytest.fixture(scope="module")
def node(kube: Kube) -> Iterator[Whole]:
    with whole_cluster(kube) as made:
        yield made


@pytest.fixture(autouse=True)
def _left_as_found(node: Whole) -> Iterator[None]:
    """In place of the one for a mesh with two static nodes."""
    yield
    node.mesh.release()
    for name in tuple(node.pods):
        node.end_pod(name)


def identities(whole: Whole, node: str) -> dict[str, str]:
    return {entry["name"]: entry["identity"] for entry in whole.mesh.admin(node, "/workloads") if entry["ready"]}


def test_a_pod_is_in_the_mesh_from_its_first_packet(node: Whole) -> None:
    near, far = node.nodes
    node.kube.service_account(node.namespace, "api")
    api, added = node.start_pod(far, "api", account="api")
    assert added.ok, added.output
    node.cluster.start_app(api)
    begin = time.monotonic()
    shop, added = node.start_pod(near, "shop")
    answered_s = time.monotonic() - begin
    assert added.ok, added.output
    with node.mesh.wiretap("whole", far) as tap:
        call = node.mesh.call(shop, api.ipv4, timeout_s=20)
    print(f"pod created to the plugin's answer {answered_s:.3f} s; its first call took {call.took_s:.3f} s")
    assert call.ok, call
    assert call.client == str(shop.ipv4)
    assert SECRET not in tap.file.read_bytes()
    assert identities(node, near) == {"shop": spiffe("default", node.namespace)}
    assert identities(node, far) == {"api": spiffe("api", node.namespace)}


def test_another_pod_of_the_same_name_is_another(node: Whole) -> None:
    near, far = node.nodes
    node.kube.service_account(node.namespace, "first")
    node.kube.service_account(node.namespace, "second")
    api, added = node.start_pod(far, "target")
    assert added.ok, added.output
    node.cluster.start_app(api)
    former, added = node.start_pod(near, "same", account="first")
    assert added.ok, added.output
    # The address was another pod's a moment ago: nothing goes there until the node has heard whose it is now.
    eventually(lambda: node.mesh.call(former, api.ipv4).ok, "the first call", timeout_s=20)
    held = node.mesh.hold(former, api.ipv4)
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-second", "namespace": node.namespace},
        "spec": {"action": "DENY", "rules": [{"from": [{"source": {"principals": [principal("second", node.namespace)]}}]}]},
    }
    node.kube.admin.create(policy)
    assert echoes(held)
    node.end_pod("same")
    later, added = node.start_pod(near, "same", account="second")
    assert added.ok, added.output
    assert later.ipv4 == former.ipv4, "name and address are those of the former"
    assert identities(node, near) == {"same": spiffe("second", node.namespace)}
    eventually(lambda: not node.mesh.call(later, api.ipv4).ok, "what the policy says of its own account to hold", timeout_s=20)
