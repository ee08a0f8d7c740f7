"""Which endpoint a call reaches: health, locality, ports by name, headless, entries from outside, and endpoints that die under way."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from demo import manifests
from demo.cluster import API_VIPS
from demo.manifests import Manifest
from demo.shell import Process, run
from demo.topology import Pod
from tests.e2e.mesh import HTTP, Mesh, echoes, service_account_of
from tests.nodeagent import cgroups

ALL = {"api-1", "api-2", "api-3"}
OUTSIDE_VIP = "10.99.0.1"
UNPLUGGED_S = 5.0
"""An attempt at each of the two endpoints of the node that is gone, on a busy machine."""


def reached(mesh: Mesh, address: object = API_VIPS[0], port: int = 80, *, source: str = "shop", count: int = 24) -> set[str]:
    """Who answered calls of the source, each on a connection of its own; "" stands for a call that failed."""
    return {mesh.call(mesh.pods[source], address, port, timeout_s=20).pod for _ in range(count)}


@contextmanager
def mesh_file(mesh: Mesh, change: Any) -> Iterator[None]:
    """The file of the basic mesh with each document changed by `change` (which returns it), for the length of the block."""
    file = mesh.cluster.config / "mesh.yaml"
    before = file.read_text()
    mesh.cluster.apply("mesh", [change(document) for document in documents(before)])
    try:
        yield
    finally:
        file.write_text(before)


def documents(text: str) -> list[Manifest]:
    import yaml

    return list(yaml.safe_load_all(text))


def unready(*names: str) -> Any:
    def change(document: Manifest) -> Manifest:
        if document["kind"] == "Pod" and document["metadata"]["name"] in names:
            document["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
        return document

    return change


def service_with(**spec: Any) -> Any:
    def change(document: Manifest) -> Manifest:
        if document["kind"] == "Service":
            document["spec"] |= spec
        return document

    return change


def both(*changes: Any) -> Any:
    def change(document: Manifest) -> Manifest:
        for one in changes:
            document = one(document)
        return document

    return change


def follows(mesh: Mesh, wanted: set[str], *, source: str = "shop", vip: str = API_VIPS[0]) -> None:
    """Waits until calls reach exactly the wanted endpoints."""
    mesh.wait(lambda: (reached(mesh, vip, source=source)) == wanted, f"calls of {source} to reach {sorted(wanted)}")


def test_a_service_is_spread_over_its_endpoints_by_port_name(mesh: Mesh) -> None:
    for vip in API_VIPS:
        assert (reached(mesh, vip)) == ALL


def test_an_endpoint_that_is_not_ready_gets_nothing_new(mesh: Mesh) -> None:
    held = mesh.hold(mesh.pods["shop"], mesh.pods["api-2"].ipv4)
    with mesh_file(mesh, unready("api-2")):
        for vip in API_VIPS:
            follows(mesh, {"api-1", "api-3"}, vip=vip)
        assert mesh.call(mesh.pods["shop"], mesh.pods["api-2"].ipv4).ok, "who dials it itself still reaches it"
    follows(mesh, ALL)
    held.close()


def test_without_a_ready_endpoint_calls_are_refused_with_the_reason(mesh: Mesh) -> None:
    with mesh_file(mesh, unready(*ALL)):
        mesh.wait(lambda: not mesh.call(mesh.pods["shop"], API_VIPS[0], 80).ok, "calls to be refused")
        words = mesh.cluster.nodeagent("n1", "explain", "default/shop", "api:80")
        assert "3 not healthy" in words
        assert "DENIED" in words
    follows(mesh, ALL)


def test_traffic_stays_close_and_fails_over_when_nothing_close_is_left(mesh: Mesh) -> None:
    close = service_with(trafficDistribution="PreferClose")
    with mesh_file(mesh, close):
        follows(mesh, {"api-1"})
        follows(mesh, {"api-2", "api-3"}, source="api-2")
        with mesh_file(mesh, both(close, unready("api-1"))):
            follows(mesh, {"api-2", "api-3"})
        follows(mesh, {"api-1"})
    follows(mesh, ALL)


def test_traffic_bound_to_the_node_does_not_leave_it(mesh: Mesh) -> None:
    local = service_with(internalTrafficPolicy="Local")
    with mesh_file(mesh, local):
        follows(mesh, {"api-1"})
        with mesh_file(mesh, both(local, unready("api-1"))):
            mesh.wait(lambda: not mesh.call(mesh.pods["shop"], API_VIPS[0], 80).ok, "calls to be refused")
        follows(mesh, {"api-1"})
    follows(mesh, ALL)


def test_no_call_fails_when_applications_die(mesh: Mesh) -> None:
    """A call whose endpoint is gone is answered by another, be it further away; who failed is set aside for a while, then tried again."""
    with mesh_file(mesh, service_with(trafficDistribution="PreferClose")):
        follows(mesh, {"api-1"})
        for name in ("api-1", "api-3"):
            mesh.apps[name].stop(signal_number=9)
        try:
            for vip in API_VIPS:
                assert reached(mesh, vip) == {"api-2"}
        finally:
            for name in ("api-1", "api-3"):
                mesh.apps[name] = mesh.cluster.start_app(mesh.pods[name])
        mesh.wait(lambda: reached(mesh) == {"api-1"}, "the close one to be used again", timeout_s=20)
    follows(mesh, ALL)


def test_no_call_fails_when_a_node_is_unplugged(mesh: Mesh) -> None:
    """Nothing says that it is gone: neither its tunnels nor new connections get an answer. No caller waits long for another endpoint."""
    node, number = mesh.topology.hosts["n2"].namespace, mesh.topology.hosts["n2"].number
    assert reached(mesh) == ALL
    run(["ip", "-netns", node, "link", "set", "uplink", "down"])
    try:
        with ThreadPoolExecutor(12) as threads:
            calls = list(threads.map(lambda _: mesh.call(mesh.pods["shop"], API_VIPS[0], 80, timeout_s=40), range(12)))
    finally:
        run(["ip", "-netns", node, "link", "set", "uplink", "up"])
        run(["ip", "-netns", node, "addr", "replace", f"fd77:{number}::2/64", "dev", "uplink", "nodad"])
        run(["ip", "-netns", node, "route", "replace", "default", "via", f"10.77.{number}.1"])
        run(["ip", "-netns", node, "route", "replace", "::/0", "via", f"fd77:{number}::1"])
    longest_s = max(call.took_s for call in calls)
    print(f"the longest call took {longest_s:.1f} s")
    assert {call.pod for call in calls} == {"api-1"}
    assert longest_s < UNPLUGGED_S
    mesh.wait(lambda: reached(mesh) == ALL, "the node to be used again", timeout_s=60)


def test_a_headless_service_is_its_endpoints(mesh: Mesh) -> None:
    with mesh.applied("headless", manifests.service("direct", app="api", vips=())):
        mesh.wait(lambda: "allowed" in explained(mesh, "direct:80"), "the service to be known")
        for name in sorted(ALL):
            pod = mesh.pods[name]
            assert {mesh.call(mesh.pods["shop"], address).pod for address in (pod.ipv4, pod.ipv6)} == {name}


def explained(mesh: Mesh, destination: str) -> str:
    """The outcome of a call of shop, in the agent's words."""
    return str(mesh.admin("n1", f"/explain?source=default/shop&destination={destination}")["outcome"])


def service_entry(addresses: list[str], port: dict[str, Any], **spec: Any) -> Manifest:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "elsewhere", "namespace": "default"},
        "spec": {
            "hosts": ["elsewhere.example"],
            "addresses": addresses,
            "ports": [{"name": "http", "protocol": "HTTP", **port}],
            "resolution": "STATIC",
            **spec,
        },
    }


def outside_app(mesh: Mesh) -> Process:
    host = mesh.topology.hosts["outside"]
    return mesh.cluster.start_app(Pod("elsewhere", "outside", host.namespace, IPv4Address(host.ipv4), IPv6Address(host.ipv6)))


def test_entries_lead_outside_in_plaintext_from_the_pods_own_address(mesh: Mesh) -> None:
    shop, host = mesh.pods["shop"], mesh.topology.hosts["outside"]
    app = outside_app(mesh)
    port = {"number": 80, "targetPort": HTTP}
    inline = service_entry([OUTSIDE_VIP], port, endpoints=[{"address": str(host.ipv4)}])
    selecting = service_entry([OUTSIDE_VIP], port, workloadSelector={"labels": {"app": "elsewhere"}})
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "elsewhere-1", "namespace": "default"},
        "spec": {"address": str(host.ipv4), "labels": {"app": "elsewhere"}},
    }
    try:
        for documents in ([inline], [selecting, entry]):
            with mesh.applied("elsewhere", *documents):
                mesh.wait(lambda: mesh.call(shop, OUTSIDE_VIP, 80, timeout_s=0.5).ok, "the entry to be served")
                answer = mesh.call(shop, OUTSIDE_VIP, 80)
                assert (answer.pod, answer.client) == ("elsewhere", str(shop.ipv4))
                assert "OUTSIDE" in mesh.cluster.nodeagent("n1", "explain", "default/shop", f"{OUTSIDE_VIP}:80")
            mesh.wait(lambda: not mesh.call(shop, OUTSIDE_VIP, 80, timeout_s=0.5).ok, "the entry to be gone")
        for address in (host.ipv4, host.ipv6):
            answer = mesh.call(shop, address)
            assert answer.pod == "elsewhere", "what the mesh does not know is passed through"
    finally:
        app.stop(signal_number=9)


def test_what_the_mesh_does_not_know_is_reached_past_the_proxy_until_it_does(mesh: Mesh) -> None:
    """From a pod whose cgroup is known, where the capture can: the first connection asks, the next do not."""
    shop, host = mesh.pods["shop"], mesh.topology.hosts["outside"]
    address = f"{host.ipv4}:{HTTP}"
    known = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "elsewhere-1", "namespace": "default"},
        "spec": {"address": str(host.ipv4), "labels": {"app": "elsewhere"}},
    }
    app = outside_app(mesh)
    try:
        with cgroups.entered() as cgroup, listed_in(mesh, shop, cgroup):
            mesh.wait(lambda: "marked" in capture_counters(mesh, shop), "the programs of the cgroup")
            assert "past the proxy" in mesh.cluster.nodeagent("n1", "explain", "default/shop", address)
            mesh.wait(lambda: past(mesh, shop, host.ipv4), "a call past the proxy")
            assert mesh.call(shop, host.ipv4).client == str(shop.ipv4)
            assert past(mesh, shop, host.ipv4)
            held = mesh.hold(shop, host.ipv4)
            with mesh.applied("elsewhere", known):
                mesh.wait(lambda: not past(mesh, shop, host.ipv4), "calls to go by the proxy")
                assert not past(mesh, shop, host.ipv4)
                assert echoes(held), "what is open stays as it was judged"
            mesh.wait(lambda: past(mesh, shop, host.ipv4), "a call past the proxy again")
            with mesh.wiretap("captured") as tap:
                assert mesh.call(shop, mesh.pods["api-2"].ipv6).client == str(shop.ipv6)
            assert tap.read().ports == {15008}
        mesh.wait(lambda: "marked" not in capture_counters(mesh, shop), "the programs to be off")
        assert mesh.call(shop, host.ipv4).pod == "elsewhere"
    finally:
        app.stop(signal_number=9)


@contextmanager
def listed_in(mesh: Mesh, pod: Pod, cgroup: str) -> Iterator[None]:
    mesh.cluster.list_pod(pod, service_account=service_account_of(pod.name), cgroup=cgroup)
    try:
        yield
    finally:
        mesh.cluster.list_pod(pod, service_account=service_account_of(pod.name))


def capture_counters(mesh: Mesh, pod: Pod) -> dict[str, int]:
    [entry] = [entry for entry in mesh.admin(pod.node, "/capture") if entry["name"] == pod.name]
    return {counter["rule"]: counter["packets"] for counter in entry["counters"]}


def past(mesh: Mesh, pod: Pod, address: object) -> bool:
    """Whether a call went past the proxy."""
    before = capture_counters(mesh, pod)["outside"]
    assert mesh.call(pod, address).ok
    return capture_counters(mesh, pod)["outside"] > before


def test_entries_with_pods_as_endpoints_are_reached_in_tunnels(mesh: Mesh) -> None:
    """A ServiceEntry may select pods; they keep their identity and their policies."""
    entry = service_entry([OUTSIDE_VIP], {"number": 80, "targetPort": HTTP}, workloadSelector={"labels": {"app": "api"}})
    with mesh.applied("elsewhere", entry):
        mesh.wait(lambda: mesh.call(mesh.pods["shop"], OUTSIDE_VIP, 80, timeout_s=0.5).ok, "the entry to be served")
        with mesh.wiretap("entry") as tap:
            assert (reached(mesh, OUTSIDE_VIP)) == ALL
        assert tap.read().ports == {15008}
