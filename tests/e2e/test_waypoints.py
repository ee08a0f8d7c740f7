"""Through a waypoint, a real Envoy: who is bound to it goes there and nowhere else, and nobody goes around what its policies protect."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from demo import manifests
from demo.manifests import Manifest
from demo.topology import Pod
from demo.waypoint_static import StaticEndpoint, StaticService
from tests.e2e import static_waypoint
from tests.e2e.mesh import ECHO, HTTP, SECRET, Mesh, spiffe
from tests.e2e.static_waypoint import NAME, Waypoint, gateway

VIPS = ("10.96.0.20", "fd96::20")
GUARD = "only_through_waypoint_service_front"
UNBOUND = "10.96.0.10"
"""Of a service with the same endpoints that is bound to nothing."""


def front(use: str = NAME) -> Manifest:
    """A service of the api pods, bound to the waypoint."""
    made = manifests.service("front", app="api", vips=VIPS, spec={"ports": [{"name": "http", "port": 80, "targetPort": "http"}]})
    made["metadata"]["labels"] = {"istio.io/use-waypoint": use}
    return made


def policy() -> Manifest:
    """One that only a waypoint can enforce."""
    rule = {"to": [{"operation": {"methods": ["GET"]}}]}
    spec = {"targetRefs": [{"kind": "Service", "name": "front"}], "action": "ALLOW", "rules": [rule]}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "get-only", "namespace": "default"},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def waypoint(mesh: Mesh) -> Iterator[Waypoint]:
    pods = [pod for name, pod in mesh.pods.items() if name.startswith("api")]
    endpoints = tuple(StaticEndpoint(f"{pod.ipv4}:{HTTP}", spiffe("api")) for pod in pods)
    direct = tuple(StaticService(pod.name, (str(pod.ipv4),), HTTP, (StaticEndpoint(f"{pod.ipv4}:{HTTP}", spiffe("api")),)) for pod in pods)
    with static_waypoint.running(mesh, [StaticService("front", VIPS, 80, endpoints), *direct]) as made:
        yield made


def by_waypoint(mesh: Mesh, waypoint: Waypoint, source: Pod | str, host: object, port: int) -> bool:
    """Whether a call succeeds, and the application sees the waypoint as its client."""
    call = mesh.call(source, host, port)
    return call.ok and call.client in {str(waypoint.pod.ipv4), str(waypoint.pod.ipv6)}


def guarded(mesh: Mesh, *nodes: str) -> bool:
    """Whether the api pods of the nodes have the guard in force."""
    here = {"n1": {"default/api-1"}, "n2": {"default/api-2", "default/api-3"}}
    return all(
        any(entry["name"] == GUARD and here[node] <= set(entry["workloads"]) for entry in mesh.admin(node, "/policies")) for node in nodes
    )


def _logged(line: str) -> bool:
    """Whether it names the service that was called, and the waypoint that took the call."""
    return 'dst.service="front.default.svc.cluster.local"' in line and f'dst.workload="{NAME}"' in line


def explained(mesh: Mesh, destination: str) -> dict[str, Any]:
    return dict(json.loads(mesh.cluster.nodeagent("n1", "explain", "default/shop", destination, "-o", "json")))


def test_a_bound_services_callers_go_through_its_waypoint(mesh: Mesh, waypoint: Waypoint) -> None:
    shop = mesh.pods["shop"]
    with mesh.applied("front", front(), gateway()):
        for vip in VIPS:
            mesh.wait(lambda vip=vip: by_waypoint(mesh, waypoint, shop, vip, 80), f"calls to {vip} to go through the waypoint")
        opened = waypoint.stat("http.connect_terminate.downstream_cx_total")
        with mesh.wiretap("waypoint") as tap:
            assert {mesh.call(shop, VIPS[0], 80).pod for _ in range(12)} == {"api-1", "api-2", "api-3"}
        # All in the tunnels that the first calls opened: at most one more for each of the proxy's workers.
        assert waypoint.stat("http.connect_terminate.downstream_cx_total") - opened <= 2
        assert not tap.contains(SECRET)
        # What is not bound goes its direct way still.
        assert mesh.call(shop, UNBOUND, 80).client == str(shop.ipv4)
        explanation = explained(mesh, "front:80")
        assert explanation["outcome"] == "allowed"
        assert [step["what"] for step in explanation["steps"]][2:4] == ["waypoint", "waypoint"]
        mesh.wait(lambda: any(_logged(line) for line in mesh.cluster.nodeagent("n1", "logs").splitlines()), "a line that names both")
    mesh.wait(lambda: not mesh.call(shop, VIPS[0], 80).ok, "the service to be gone")


def test_a_bound_workloads_callers_go_through_its_waypoint(mesh: Mesh, waypoint: Waypoint) -> None:
    pod = mesh.add_pod("n2", "solo", service_account="api", app="solo")
    shop = mesh.pods["shop"]
    file = mesh.cluster.config / "pod-solo.yaml"
    before = file.read_text()
    mesh.wait(lambda: mesh.call(shop, pod.ipv4, HTTP).client == str(shop.ipv4), "the pod to be reached")
    file.write_text(before.replace("app: solo", f"app: solo\n    istio.io/use-waypoint: {NAME}"))
    with mesh.applied("gateway", gateway("service")):
        assert mesh.call(shop, pod.ipv4, HTTP).client == str(shop.ipv4)
    with mesh.applied("gateway", gateway("workload")):
        # The static configuration does not know this pod: the waypoint closes what it is asked for.
        mesh.wait(lambda: not mesh.call(shop, pod.ipv4, HTTP).ok, "calls to the pod to go to the waypoint")
        assert "waypoint" in {step["what"] for step in explained(mesh, f"default/solo:{HTTP}")["steps"]}
    mesh.wait(lambda: mesh.call(shop, pod.ipv4, HTTP).client == str(shop.ipv4), "the pod to be reached directly again")
    mesh.remove_pod(pod)


def test_what_the_waypoints_policies_protect_is_reached_through_it_alone(mesh: Mesh, waypoint: Waypoint) -> None:
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    with mesh.applied("front", front(), gateway()):
        mesh.wait(lambda: by_waypoint(mesh, waypoint, shop, VIPS[0], 80), "calls to go through the waypoint")
        assert mesh.call(shop, far.ipv4, HTTP).ok
        with mesh.applied("policy", policy()):
            mesh.wait(lambda: guarded(mesh, "n1", "n2"), "the guard to be in force")
            assert by_waypoint(mesh, waypoint, shop, VIPS[0], 80)
            for source in (shop, mesh.outside):
                for address in (near.ipv4, far.ipv4, far.ipv6):
                    assert not mesh.call(source, address, HTTP).ok, (source, address)
            assert not mesh.call(shop, UNBOUND, 80).ok
            # Another port than the service's is not the waypoint's.
            mesh.hold(shop, far.ipv4, ECHO)
            explanation = explained(mesh, f"default/api-2:{HTTP}")
            assert explanation["outcome"] == "denied"
            assert "lets in its waypoint alone" in explanation["steps"][-1]["text"]
        mesh.wait(lambda: mesh.call(shop, far.ipv4, HTTP).ok, "the direct way to be open again")


def test_a_waypoint_that_does_not_answer_is_not_passed_by(mesh: Mesh, waypoint: Waypoint) -> None:
    shop = mesh.pods["shop"]
    with mesh.applied("front", front(), gateway()):
        mesh.wait(lambda: by_waypoint(mesh, waypoint, shop, VIPS[0], 80), "calls to go through the waypoint")
        waypoint.stop()
        try:
            assert not any(mesh.call(shop, VIPS[0], 80).ok for _ in range(5))
        finally:
            waypoint.start()
        mesh.wait(lambda: by_waypoint(mesh, waypoint, shop, VIPS[0], 80), "calls to go through the waypoint that is back")


def test_a_waypoint_that_is_removed_leaves_the_direct_way_unless_policies_need_it(mesh: Mesh, waypoint: Waypoint) -> None:
    shop = mesh.pods["shop"]
    with mesh.applied("front", front()):
        with mesh.applied("gateway", gateway()):
            mesh.wait(lambda: by_waypoint(mesh, waypoint, shop, VIPS[0], 80), "calls to go through the waypoint")
        mesh.wait(lambda: mesh.call(shop, VIPS[0], 80).client == str(shop.ipv4), "calls to go directly")
        with mesh.applied("policy", policy()):
            mesh.wait(lambda: guarded(mesh, "n1", "n2"), "the guard to be in force")
            assert not any(mesh.call(shop, VIPS[0], 80).ok for _ in range(6))
            assert not mesh.call(waypoint.pod, mesh.pods["api-2"].ipv4, HTTP).ok
        mesh.wait(lambda: mesh.call(shop, VIPS[0], 80).ok, "calls to go directly again")
