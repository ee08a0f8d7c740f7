"""A node of a Kubernetes cluster: a real API server, the real plugin called as a runtime calls it, the agent under its real rights."""

import json
import time
from collections.abc import Iterator

import pytest

from demo.cluster import eventually
from tests.e2e.kubernetes_node import AGENT, AGENT_NAMESPACE, BRIDGE, MODE, Site, daemonset, site
from tests.e2e.mesh import SECRET, echoes, spiffe
from tests.kube import objects
from tests.kube.admin import APIError
from tests.kube.cluster import Cluster as Kube

MANY = 30


@pytest.fixture(scope="module")
def node(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(kube, tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.fixture(autouse=True)
def _left_as_found(node: Site) -> Iterator[None]:
    """In place of the one for a mesh with two static nodes."""
    yield
    node.mesh.release()
    for name in tuple(node.pods):
        node.forget(name)
    node.label(None)
    eventually(lambda: not node.workloads(), "nothing of a test to be left on its node", timeout_s=40)


@pytest.fixture
def enrolled(node: Site) -> Site:
    node.label("ambient")
    return node


def test_a_pod_starts_captured_and_its_first_packet_is_in_mutual_tls(enrolled: Site) -> None:
    node = enrolled
    pod = node.plug("first")
    uid = node.declare("first")
    begin = time.monotonic()
    added = node.cni("ADD", "first", uid)
    print(f"the plugin answered after {time.monotonic() - begin:.3f} s")
    assert added.ok, added.output
    assert added.said["ips"][0]["address"] == f"{pod.ipv4}/24"
    assert node.captured("first"), "it is captured and has its identity before any of its containers runs"
    with node.mesh.wiretap("first", "far") as tap:
        call = node.mesh.call(pod, node.api.ipv4, timeout_s=20)
    assert call.ok, call
    assert call.client == str(pod.ipv4)
    assert SECRET not in tap.file.read_bytes(), "not one byte of the first connection was in the clear"
    assert node.workloads()["first"]["identity"] == spiffe("default", node.namespace)
    assert node.cni("CHECK", "first", uid).ok
    assert node.cni("STATUS", "first", uid).ok
    node.run_status("first", pod)
    eventually(lambda: node.annotation("first") == "enabled", "the pod to be marked as captured")


def test_pods_that_run_are_enrolled_and_released_by_a_label(node: Site) -> None:
    names = [f"many-{number}" for number in range(MANY)]
    for name in names:
        node.run(name)
    node.tell_controller()
    client = node.pods["many-0"]
    assert not node.workloads()
    before = node.mesh.hold(client, node.api.ipv4)
    begin = time.monotonic()
    node.label("ambient")
    eventually(lambda: all(node.captured(name) for name in names), f"{MANY} pods to be captured", timeout_s=40)
    print(f"{MANY} running pods are captured after {time.monotonic() - begin:.2f} s")
    assert not echoes(before), "a connection from before is not in the mesh, and has to come back"
    with node.mesh.wiretap("many", "far") as tap:
        assert node.mesh.call(client, node.api.ipv4, timeout_s=20).ok
    assert SECRET not in tap.file.read_bytes()
    eventually(lambda: all(node.annotation(name) == "enabled" for name in names), "all to be marked", timeout_s=20)
    open_one = node.mesh.hold(client, node.api.ipv4)
    node.kube.admin.merge(objects.pod(node.namespace, "many-1") | {"spec": {}, "metadata": _named(node, "many-1", {MODE: "none"})})
    eventually(lambda: not node.captured("many-1"), "one pod to leave by its own label")
    assert echoes(open_one)
    node.label(None)
    eventually(lambda: not any(node.captured(name) for name in names), "all to be released", timeout_s=20)
    assert echoes(open_one), "what is open is drained, not cut"
    eventually(lambda: all(node.annotation(name) is None for name in names), "no mark to be left", timeout_s=20)
    node.mesh.release()
    with node.mesh.wiretap("many", "far") as tap:
        assert node.mesh.call(client, node.api.ipv4).ok
    assert SECRET in tap.file.read_bytes(), "outside of the mesh calls are what they were"


def _named(node: Site, name: str, labels: dict[str, str]) -> dict[str, object]:
    return {"name": name, "namespace": node.namespace, "labels": labels}


def test_pods_outside_of_the_mesh_start_at_once(node: Site) -> None:
    node.plug("outsider")
    uid = node.declare("outsider")
    assert node.cni("ADD", "outsider", uid).ok
    assert not node.workloads()
    node.label("ambient")
    eventually(lambda: node.captured("outsider"), "a pod without processes to be found where the plugin said")
    node.label(None)
    eventually(lambda: not node.captured("outsider"), "it to be released")


def test_a_pod_without_an_identity_does_not_start_and_its_event_says_why(enrolled: Site) -> None:
    node = enrolled
    node.plug("stranger", account="default")
    node.kube.service_account(node.namespace, "unknown")
    uid = node.declare("stranger", account="unknown")
    begin = time.monotonic()
    refused = node.cni("ADD", "stranger", uid, deadline_s=3)
    assert time.monotonic() - begin < 10
    assert (refused.status, refused.said["code"]) == (1, 11)
    assert "stranger is not in the mesh within 2 s" in refused.said["msg"]
    assert "identity" in refused.said["msg"]
    pod = node.pods["stranger"]
    eventually(
        lambda: not node.mesh.call(pod, node.api.ipv4, timeout_s=2).ok, "what is in its namespace all the same to be shut off", timeout_s=20
    )


def test_another_pod_s_name_or_namespace_is_not_enough(enrolled: Site) -> None:
    node = enrolled
    pod = node.plug("real")
    uid = node.declare("real")
    other = "00000000-0000-0000-0000-000000000000"
    assert "has not told of it" in node.cni("ADD", "real", other, deadline_s=2).said["msg"]
    elsewhere = {"cniVersion": "1.0.0", "ips": [{"address": "10.99.99.99/24"}]}
    refused = node.cni("ADD", "real", uid, previous=elsewhere)
    assert "does not have the pod's address 10.99.99.99" in refused.said["details"]
    config_of_node = node.cni("ADD", "real", uid, CNI_NETNS="/proc/self/ns/net", previous={"cniVersion": "1.0.0", "ips": []})
    assert config_of_node.ok is False
    assert "real" not in node.workloads() or not node.captured("real")
    assert node.cni("ADD", "real", uid).ok
    assert node.workloads()["real"]["addresses"][0] == str(pod.ipv4)


def test_a_sandbox_made_anew_is_captured_anew(enrolled: Site) -> None:
    node = enrolled
    first = node.plug("again")
    uid = node.declare("again")
    assert node.cni("ADD", "again", uid).ok
    assert node.cni("DEL", "again", uid).ok
    assert node.captured("again"), "its capture is on until its namespace is gone"
    node.mesh.topology.remove_pod(first)
    second = node.plug("again")
    assert second.ipv4 == first.ipv4, "the address is used again"
    assert node.cni("ADD", "again", uid).ok
    assert node.mesh.call(second, node.api.ipv4, timeout_s=20).ok
    assert node.cni("GC", "again", uid).ok


def test_while_the_agent_is_away_no_pod_starts_and_those_that_run_go_on(enrolled: Site) -> None:
    node = enrolled
    pod = node.plug("steady")
    uid = node.declare("steady")
    assert node.cni("ADD", "steady", uid).ok
    assert node.cni("CHECK", "steady", uid).ok
    held = node.mesh.hold(pod, node.api.ipv4)
    node.plug("late")
    late = node.declare("late")
    node.stop_agent()
    refused = node.cni("ADD", "late", late)
    assert "the node agent can't be reached" in refused.said["msg"]
    assert node.cni("STATUS", "late", late).said["code"] == 50
    assert node.cni("DEL", "late", late).ok
    assert node.chain()[-1]["type"] == "nodemesh-cni", "it stays in the chain: else a pod would start uncaptured now"
    assert echoes(held)
    node.start_agent()
    assert node.cni("ADD", "late", late).ok
    assert node.captured("steady")
    assert echoes(held), "a restart cuts nothing"


def problems(node: Site) -> str:
    return " ".join(problem["what"] for problem in node.mesh.admin(node.node, "/status")["problems"])


def test_while_the_api_server_is_away_what_is_known_stays_also_for_an_agent_that_restarts(enrolled: Site) -> None:
    node = enrolled
    pod = node.plug("known")
    uid = node.declare("known")
    assert node.cni("ADD", "known", uid).ok
    held = node.mesh.hold(pod, node.api.ipv4)
    node.way.refusing = True
    try:
        node.way.cut()
        eventually(lambda: "the API server can't be read" in problems(node), "it to be told")
        assert node.cni("ADD", "known", uid).ok, "a pod that is known starts again"
        node.stop_agent()
        node.start_agent()
        assert echoes(held)
        assert node.mesh.call(pod, node.api.ipv4).ok
        node.plug("unknown")
        refused = node.cni("ADD", "unknown", "00000000-0000-0000-0000-000000000000", deadline_s=2)
        assert "the API server" in refused.said["msg"]
        assert node.captured("known")
    finally:
        node.way.refusing = False
    node.declare("unknown")
    eventually(lambda: "the API server" not in problems(node), "the API server to be read again", timeout_s=40)
    assert echoes(held)
    assert node.captured("known")


def test_an_agent_may_mark_pods_of_its_own_node_and_nothing_else(node: Site) -> None:
    agent = node.kube.client(json.loads((node.directory / "kubeconfig").read_text())["users"][0]["user"]["token"])
    node.plug("mine")
    node.declare("mine")
    node.kube.admin.create(objects.pod(node.namespace, "theirs", node="elsewhere"))

    def patch(name: str, body: dict[str, object], sub: str = "/status") -> int:
        target = f"/api/v1/namespaces/{node.namespace}/pods/{name}{sub}"
        return agent.request("PATCH", target, json.dumps(body).encode(), "application/merge-patch+json")[0]

    mark = {"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}}
    # The API server takes a moment to learn of a policy.
    eventually(lambda: patch("theirs", mark) == 422, "the policy to be in force", timeout_s=30)
    assert patch("mine", mark) == 200
    for body in (
        {"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}},
        {"status": {"phase": "Failed"}},
        {"metadata": {"labels": {MODE: "none"}}},
        {"metadata": {"annotations": {"other": "x"}}},
        {"metadata": {"finalizers": ["example.com/x"]}},
    ):
        assert patch("mine", body) == 422, body
    assert patch("mine", mark, sub="") == 403
    for method, path in (
        ("GET", "/api/v1/secrets"),
        ("DELETE", f"/api/v1/namespaces/{node.namespace}/pods/mine"),
        ("GET", "/api/v1/nodes"),
    ):
        assert agent.request(method, path)[0] == 403, path
    node.kube.admin.delete("v1", "Pod", "theirs", node.namespace)
    with pytest.raises(APIError, match="404"):
        node.kube.admin.get("v1", "Pod", "theirs", node.namespace)


def test_down_takes_the_plugin_out_of_the_chain(enrolled: Site) -> None:
    node = enrolled
    assert (node.directory / "bin/nodemesh-cni").exists()
    node.mesh.cluster.nodeagent(node.node, "down", "--drain", "0")
    assert json.loads((node.directory / "net.d/10-net.conflist").read_text()) == BRIDGE
    assert not (node.directory / "bin/nodemesh-cni").exists()
    node.stop_agent()
    node.start_agent()
    eventually(lambda: len(node.chain()) == 2, "it to be put back by an agent that runs again")


def test_an_agent_that_ends_with_the_whole_installation_takes_its_node_out_of_the_mesh(enrolled: Site) -> None:
    node = enrolled
    pod = node.plug("left")
    uid = node.declare("left")
    assert node.cni("ADD", "left", uid).ok
    node.kube.admin.delete("apps/v1", "DaemonSet", AGENT, AGENT_NAMESPACE)
    node.mesh.cluster.agents[node.node].stop(timeout_s=30)
    assert json.loads((node.directory / "net.d/10-net.conflist").read_text()) == BRIDGE, "pods start without waiting for anybody"
    with node.mesh.wiretap("left", "far") as tap:
        assert node.mesh.call(pod, node.api.ipv4).ok
    assert SECRET in tap.file.read_bytes(), "its pods go on as if there never had been a mesh"
    node.kube.admin.apply(daemonset())
    node.start_agent()
    eventually(lambda: node.captured("left"), "it to be captured again")
