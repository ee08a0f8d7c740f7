"""A waypoint in a pod of its own: a real Envoy with the configuration that was written by hand, and the objects that make it one."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo import manifests
from demo.bench.envoy import ENVOY
from demo.cluster import eventually
from demo.manifests import Manifest
from demo.shell import Process, run
from demo.topology import Pod
from demo.waypoint_static import HBONE_PORT, StaticService, waypoint_config
from tests.e2e.mesh import Mesh, spiffe

NAME = "gate"
VIP = "10.96.0.9"
HOST = f"{NAME}.default.svc.cluster.local"
ROOT = Path(__file__).parent.parent.parent


@dataclass
class Waypoint:
    """The pod `gate` of node n1, which no agent captures, and its Envoy."""

    mesh: Mesh
    pod: Pod
    process: Process

    def start(self) -> None:
        self.process.start()
        eventually(lambda: str(HBONE_PORT) in run(["ss", "-Hltn"], namespace=self.pod.namespace), "the waypoint to listen", timeout_s=20)

    def stop(self) -> None:
        self.process.stop(signal_number=9)

    def stat(self, name: str) -> int:
        """A counter of the Envoy."""
        command = ["curl", "-s", f"http://127.0.0.1:15000/stats?filter=^{name}$"]
        return int(run(command, namespace=self.pod.namespace).rpartition(": ")[2] or 0)


def gateway(traffic: str = "all") -> Manifest:
    """The Gateway of the waypoint."""
    listener = {"name": "mesh", "port": HBONE_PORT, "protocol": "HBONE"}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": NAME, "namespace": "default", "labels": {"istio.io/waypoint-for": traffic}},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener]},
    }


def _objects(pod: Pod) -> list[Manifest]:
    mine = {"istio.io/dataplane-mode": "none", "gateway.networking.k8s.io/gateway-name": NAME}
    ports = {"ports": [{"name": "mesh", "port": HBONE_PORT}]}
    return [
        manifests.service_account(NAME),
        manifests.pod(pod, service_account=NAME, app=NAME, labels=mine),
        manifests.service(NAME, app=NAME, vips=(VIP,), spec=ports),
    ]


@contextmanager
def running(mesh: Mesh, services: Sequence[StaticService]) -> Iterator[Waypoint]:
    """The waypoint, its pod and its service; the Gateway is up to the test. Nothing of it is left after the block."""
    pod = mesh.topology.add_pod("n1", NAME)
    directory = mesh.cluster.directory / NAME
    directory.mkdir()
    try:
        with mesh.applied(NAME, *_objects(pod)):
            eventually(lambda: _certified(mesh, directory), "a certificate for the waypoint", timeout_s=30)
            config = directory / "envoy.json"
            config.write_text(json.dumps(waypoint_config(directory, "::", services)))
            command = [str(ENVOY), "-c", str(config), "--log-level", "warning", "--concurrency", "1", "--use-dynamic-base-id"]
            waypoint = Waypoint(mesh, pod, Process(NAME, command, mesh.cluster.directory / "gate.log", pod.namespace))
            try:
                waypoint.start()
                yield waypoint
            finally:
                waypoint.stop()
    finally:
        mesh.topology.remove_pod(pod)


def _certified(mesh: Mesh, directory: Path) -> bool:
    """Whether the controller gives the waypoint's identity out: it has heard of the pod, then."""
    node = mesh.cluster.node_directory("n1")
    target = f"{mesh.topology.hosts['controller'].ipv4}:15011"
    asked = [target, str(node / "root.pem"), str(node / "state"), spiffe(NAME), str(directory)]
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, str(Path(__file__).parent / "take_certificate.py"), *asked]
    run(command, namespace=mesh.topology.hosts["n1"].namespace, answers=(0, 1))
    return (directory / "root.pem").exists()
