"""The core of the mesh on each lower rung of the ladder; the other modules run on the one that the kernel carries best."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import manifests
from demo.cluster import API_VIPS
from nodeagent.ztunnel.supervisor import BUNDLED
from tests.e2e import mesh as meshes
from tests.e2e.mesh import HTTP, NODES, Mesh, echoes, principal
from tests.e2e.test_reports import samples
from tests.e2e.test_restarts import another_proxy, kill_proxy, only_tunnels, start_agent

EXCLUDE = "traffic.sidecar.istio.io/excludeOutboundPorts"
FAIL_OPEN = "nodemesh.io/fail-open"


@pytest.fixture(scope="module", params=["nftables", "redirect", "iptables"])
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    with meshes.running(request.param) as made:
        assert made.admin("n1", "/status")["capture"] == request.param
        yield made


def test_calls_are_tunnelled_and_clients_seen_as_they_are(mesh: Mesh) -> None:
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    with mesh.wiretap("calls") as tap:
        for host in (far.ipv4, far.ipv6, near.ipv4, near.ipv6):
            assert mesh.call(shop, host).client in {str(shop.ipv4), str(shop.ipv6)}
        assert all(mesh.call(shop, vip, 80).ok for vip in API_VIPS)
    only_tunnels(tap)
    outside = mesh.topology.hosts["outside"]
    assert mesh.call(mesh.outside, near.ipv4).client == str(outside.ipv4)
    assert mesh.call(mesh.outside, near.ipv6).client == str(outside.ipv6)


def test_policies_hold_in_every_way(mesh: Mesh) -> None:
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    with mesh.policies(manifests.authorization_policy("no-shop", "DENY", app="api", principals=[principal("shop")])):
        assert not any(mesh.call(shop, host).ok for host in (near.ipv4, far.ipv6))
        assert mesh.call(near, far.ipv4).ok
        assert mesh.call(mesh.outside, near.ipv4).ok
    mesh.wait(lambda: mesh.call(shop, far.ipv4).ok, "calls to be let in again")


def test_annotations_change_the_capture_of_a_live_pod(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    held = mesh.hold(shop, far.ipv4)
    mesh.cluster.list_pod(shop, service_account="shop", annotations={EXCLUDE: f"{HTTP}"})
    with mesh.wiretap("excluded") as tap:
        mesh.wait(lambda: mesh.call(shop, far.ipv4).ok and HTTP in tap.read().ports, "calls past the proxy")
        assert mesh.call(shop, far.ipv6).ok
    assert echoes(held), "its other connections are as they were"
    mesh.cluster.list_pod(shop, service_account="shop", annotations={EXCLUDE: "all"})
    mesh.wait(lambda: EXCLUDE in (mesh.workload(shop)["problem"] or "") and mesh.workload(shop)["ready"], "the bad annotation to be told")
    with mesh.wiretap("whole") as tap:
        assert mesh.call(shop, far.ipv4).ok
    only_tunnels(tap)
    mesh.cluster.list_pod(shop, service_account="shop")
    mesh.wait(lambda: not mesh.workload(shop)["problem"] and mesh.workload(shop)["ready"], "the problem to be gone")


def test_agent_and_proxy_die_under_traffic(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    with mesh.wiretap("agent-killed") as tap, mesh.stream(shop, far.ipv4) as stream:
        for node in NODES:
            mesh.cluster.agents[node].stop(signal_number=signal.SIGKILL)
        began = len(stream.calls)
        mesh.wait(lambda: len(stream.calls) > began + 20, "calls while both agents are dead")
        for node in NODES:
            start_agent(mesh, node)
        assert stream.failed == []
        former = kill_proxy(mesh, "n1")
        another_proxy(mesh, "n1", former)
        mesh.wait(lambda: mesh.call(shop, far.ipv4).ok, "calls with the new proxy")
    assert len(stream.failed) <= 2
    only_tunnels(tap)


def test_a_new_proxy_takes_over_and_no_connection_is_lost(mesh: Mesh, tmp_path: Path) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    another = shutil.copy(BUNDLED, tmp_path / BUNDLED.name)
    held, former = mesh.hold(shop, far.ipv4), mesh.cluster.proxy_pid("n1")
    with mesh.stream(shop, far.ipv4) as stream:
        mesh.cluster.agents["n1"].stop()
        mesh.cluster.start_agent("n1", f"--proxy-binary={another}", "--proxy-drain=60", join=False)
        mesh.wait(lambda: mesh.cluster.proxy_pid("n1") not in {None, former}, "another proxy")
        began = len(stream.calls)
        mesh.wait(lambda: len(stream.calls) > began + 20, "calls through the new proxy")
        assert echoes(held)
    assert stream.failed == []


def test_without_agent_and_proxy_it_is_closed_and_open_only_where_it_may_be(mesh: Mesh) -> None:
    shop, near, way = mesh.pods["shop"], mesh.pods["api-1"], mesh.admin("n1", "/status")["capture"]
    mesh.cluster.list_pod(shop, service_account="shop", annotations={FAIL_OPEN: "true"})
    mesh.wait(lambda: "open" in {one["rule"] for one in _counters(mesh, shop.name)} or way == "iptables", "the annotation to be followed")
    mesh.wait(mesh.settled, "both nodes to serve")
    mesh.cluster.agents["n1"].stop(signal_number=signal.SIGKILL)
    kill_proxy(mesh, "n1")
    mesh.wait(lambda: mesh.cluster.proxy_pid("n1") is None, "the proxy to be gone")
    try:
        closed = [mesh.call(mesh.outside, near.ipv4, timeout_s=1.0), mesh.call(near, shop.ipv4, timeout_s=1.0)]
        into = mesh.call(mesh.outside, shop.ipv4, timeout_s=1.0)
    finally:
        mesh.cluster.list_pod(shop, service_account="shop")
        start_agent(mesh, "n1")
    assert [call for call in closed if call.ok] == []
    assert into.ok == (way == "nftables"), "rules that redirect need the agent's word"
    mesh.wait(lambda: mesh.call(shop, near.ipv4).ok, "everything to work again")


def test_while_no_proxy_can_be_started_the_agent_opens_what_may_be_open(mesh: Mesh, tmp_path: Path) -> None:
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    binary = Path(shutil.copy(BUNDLED, tmp_path / BUNDLED.name))
    mesh.cluster.list_pod(shop, service_account="shop", annotations={FAIL_OPEN: "true"})
    former = mesh.cluster.proxy_pid("n1")
    mesh.cluster.agents["n1"].stop()
    mesh.cluster.start_agent("n1", f"--proxy-binary={binary}", join=False)
    mesh.wait(lambda: mesh.cluster.proxy_pid("n1") not in {None, former}, "the proxy that is to end")
    mesh.wait(mesh.settled, "both nodes to serve")
    binary.unlink()
    kill_proxy(mesh, "n1")
    try:
        mesh.wait(lambda: mesh.workload(shop)["capture"] == "open", "the agent to open it")
        assert mesh.call(mesh.outside, shop.ipv4).ok
        assert mesh.call(shop, far.ipv6).client == str(shop.ipv6)
        assert not mesh.call(mesh.outside, near.ipv4, timeout_s=1.0).ok
        assert not mesh.call(near, far.ipv4, timeout_s=1.0).ok
        mesh.wait(lambda: "passed by the mesh" in mesh.workload(shop)["problem"], "it to be told")
        assert _may_be_open(mesh, shop.name)
    finally:
        mesh.cluster.agents["n1"].stop()
        start_agent(mesh, "n1")
    mesh.wait(lambda: mesh.workload(shop)["ready"], "it to be served again")
    with mesh.wiretap("closed-again") as tap:
        assert mesh.call(shop, far.ipv6).ok
    only_tunnels(tap)
    mesh.cluster.list_pod(shop, service_account="shop")
    mesh.wait(lambda: not _may_be_open(mesh, shop.name) and mesh.workload(shop)["ready"], "nothing to be open any more")


def _may_be_open(mesh: Mesh, name: str) -> bool:
    return any(one.name == "nodemesh_capture_open" and one.labels["workload"] == name for one in samples(mesh, "n1"))


def _counters(mesh: Mesh, name: str) -> list[dict[str, object]]:
    return next((entry["counters"] for entry in mesh.admin("n1", "/capture") if entry["name"] == name), [])
