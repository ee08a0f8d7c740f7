"""A waypoint that the controller drives: its configuration follows the mesh, its identity is its own, and nothing that is open suffers."""

from collections.abc import Iterator

import pytest

from demo import manifests, waypoint
from demo.manifests import Manifest
from demo.waypoint import Waypoint
from tests.e2e.mesh import ECHO, SECRET, Mesh, echoes

VIPS = ("10.96.0.20", "fd96::20")
HOST = "front.default.svc.cluster.local"


def front(**spec: object) -> Manifest:
    """A service of the api pods, bound to the waypoint: HTTP, and TCP whose server is silent until it is spoken to."""
    ports: list[dict[str, object]] = [
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "tcp-echo", "port": ECHO},
        {"name": "unsaid", "port": 8081, "targetPort": 8080},
    ]
    made = manifests.service("front", app="api", vips=VIPS, spec={"ports": ports, **spec})
    made["metadata"]["labels"] = {"istio.io/use-waypoint": "gate"}
    return made


@pytest.fixture(scope="module")
def gate(mesh: Mesh) -> Iterator[Waypoint]:
    with waypoint.running(mesh.cluster) as made:
        yield made


@pytest.fixture
def bound(mesh: Mesh, gate: Waypoint) -> Iterator[None]:
    with mesh.applied("front", front()):
        for vip in VIPS:
            mesh.wait(lambda vip=vip: through(mesh, gate, vip), f"calls to {vip} to go through the waypoint", timeout_s=20)
        yield


def through(mesh: Mesh, gate: Waypoint, host: str, port: int = 80) -> bool:
    """Whether a call succeeds, and the application sees the waypoint as its client."""
    call = mesh.call(mesh.pods["shop"], host, port)
    return call.ok and call.client in {str(gate.pod.ipv4), str(gate.pod.ipv6)}


def test_a_service_through_it(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    shop = mesh.pods["shop"]
    with mesh.wiretap("driven") as tap:
        assert {mesh.call(shop, VIPS[0], 80).pod for _ in range(20)} == {"api-1", "api-2", "api-3"}
    assert not tap.contains(SECRET)
    assert through(mesh, gate, VIPS[0], 8081), "a port that does not say what it carries"
    connection = mesh.hold(shop, VIPS[0], ECHO)
    assert echoes(connection), "TCP"
