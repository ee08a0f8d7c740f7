"""One hop through a waypoint: an Envoy that the controller drives, beside one with the same path's configuration written by hand."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from demo import manifests, waypoint
from demo.bench.envoy import ENVOY
from demo.bench.measure import SECONDS, Cost, Lane, Metric, rounds
from demo.bench.mesh import APP_PORT, BenchMesh, Say, bench_mesh, serve
from demo.bench.results import Comparison, Figures, Result
from demo.cluster import Cluster, eventually
from demo.manifests import Manifest
from demo.shell import Process, run
from demo.topology import Pod
from demo.waypoint import Waypoint
from demo.waypoint_static import HBONE_PORT, StaticEndpoint, StaticService, waypoint_config

STRAIGHT: Final = "no waypoint"
DRIVEN: Final = "the controller's"
UNCOUNTED: Final = "without metrics"
"""The controller's, too, for a service of which Telemetry wants no metrics: the one by hand has none either."""
BY_HAND: Final = "by hand"
_COST: Final = "CPU of the waypoint"
_VIPS: Final = {DRIVEN: "10.96.0.20", BY_HAND: "10.96.0.21", UNCOUNTED: "10.96.0.22"}
_IDENTITY: Final = "spiffe://cluster.local/ns/default/sa/"
_ROOT: Final = Path(__file__).parents[2]


def measure_waypoints(say: Say, count: int) -> list[Result]:
    """Requests on a kept connection from one node to another, without a waypoint and through each, side by side."""
    return hop(say, count, http_metrics(SECONDS, 5000))


def http_metrics(seconds: float, requests: int) -> tuple[Metric, ...]:
    """Round trips of so many requests; for so many seconds each, requests by four clients and the bytes of large answers."""
    each = Cost(f"{_COST}, requests", "ms each", "thousand_requests")
    return (
        *(Metric(f"request {one}", "us", "less", ("http-rtt", str(requests)), f"{one}_us") for one in ("p50", "p99")),
        Metric("requests", "1/s", "more", ("http-rate", str(seconds), "4"), "requests_per_s", each),
        Metric("bulk", "Gb/s", "more", ("download", str(seconds)), "gigabits_per_s", Cost(f"{_COST}, bulk", "s/GB", "gigabytes")),
    )


def hop(say: Say, count: int, metrics: tuple[Metric, ...]) -> list[Result]:
    """What `metrics` say of each lane, and what each waypoint adds to a request."""
    with bench_mesh(say) as mesh, ExitStack() as undo:
        sink = _sink(mesh, undo)
        driven = undo.enter_context(waypoint.running(mesh.cluster, name="gate", vip="10.96.0.9"))
        by_hand = _by_hand(mesh.cluster, sink, undo)
        ways = ((DRIVEN, "gate", "gate"), (UNCOUNTED, "uncounted", "gate"), (BY_HAND, "hand", "hand"))
        services = [_service(f"to-{suffix}", _VIPS[name], gate) for name, suffix, gate in ways]
        mesh.cluster.apply("to-waypoints", [*services, _no_metrics("to-uncounted")])
        shop = mesh.pods["shop"].namespace
        lanes = [
            Lane(STRAIGHT, shop, f"{sink.ipv4}:{APP_PORT}"),
            Lane(DRIVEN, shop, f"{_VIPS[DRIVEN]}:80", (_envoy_of(driven),)),
            Lane(UNCOUNTED, shop, f"{_VIPS[UNCOUNTED]}:80", (_envoy_of(driven),)),
            Lane(BY_HAND, shop, f"{_VIPS[BY_HAND]}:80", (by_hand.pid,)),
        ]
        for lane in lanes:
            _wait_for_answers(mesh, lane)
        figures = rounds(mesh.load, lanes, metrics, count, say)
    added = {
        f"added by a waypoint, {lane}, {one} (us)": figures[(lane, f"request {one}")] - figures[(STRAIGHT, f"request {one}")]
        for lane in (DRIVEN, UNCOUNTED, BY_HAND)
        for one in ("p50", "p99")
    }
    return [Comparison(f"one waypoint, medians of {count} rounds", metrics, figures, BY_HAND), Figures(added)]


def _sink(mesh: BenchMesh, undo: ExitStack) -> Pod:
    """A pod that answers, on the other node than who asks."""
    pod = mesh.cluster.topology.add_pod("n2", "sink")
    mesh.cluster.apply("sink", [manifests.pod(pod, service_account="api", app="sink")])
    serve(mesh.load, pod, mesh.cluster.directory, undo)
    mesh.cluster.enrol(pod, service_account="api")
    return pod


def _service(name: str, vip: str, gate: str) -> Manifest:
    ports = [{"name": "http", "port": 80, "targetPort": APP_PORT}]
    made = manifests.service(name, app="sink", vips=(vip,), spec={"ports": ports, "ipFamilyPolicy": "SingleStack"})
    made["metadata"]["labels"] = {"istio.io/use-waypoint": gate}
    return made


def _no_metrics(service: str) -> Manifest:
    spec = {"targetRefs": [{"kind": "Service", "name": service}], "metrics": [{"overrides": [{"disabled": True}]}]}
    meta = {"name": "no-metrics", "namespace": "default"}
    return {"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry", "metadata": meta, "spec": spec}


def _by_hand(cluster: Cluster, sink: Pod, undo: ExitStack) -> Process:
    """A waypoint to the mesh, with a configuration that nobody sends it and the identity of its pod."""
    gate = Waypoint(cluster, cluster.topology.add_pod("n1", "hand"), "hand", "10.96.0.8")
    gate.directory.mkdir()
    cluster.apply(gate.name, gate.objects())
    eventually(lambda: _certified(cluster, gate), "a certificate", timeout_s=30)
    endpoint = StaticEndpoint(f"{sink.ipv4}:{APP_PORT}", f"{_IDENTITY}api")
    service = StaticService("to-hand", (_VIPS[BY_HAND],), 80, (endpoint,))
    config = gate.directory / "envoy.json"
    config.write_text(json.dumps(waypoint_config(gate.directory, "::", [service])))
    command = [str(ENVOY), "-c", str(config), "--log-level", "warning", "--concurrency", "1", "--use-dynamic-base-id"]
    envoy = Process(gate.name, command, gate.directory.with_suffix(".log"), gate.pod.namespace).start()
    undo.callback(envoy.stop)
    eventually(lambda: f":{HBONE_PORT}" in run(["ss", "-Hltn"], namespace=gate.pod.namespace), "Envoy to listen", timeout_s=20)
    return envoy


def _certified(cluster: Cluster, gate: Waypoint) -> bool:
    """Whether the controller gives the certificate out: it has heard of the pod, then."""
    node, target = cluster.node_directory("n1"), f"{cluster.topology.hosts['controller'].ipv4}:15011"
    script = _ROOT / "tests/e2e/take_certificate.py"
    asked = [target, str(node / "root.pem"), str(node / "state"), f"{_IDENTITY}{gate.name}", str(gate.directory)]
    command = ["env", f"PYTHONPATH={_ROOT}", sys.executable, str(script), *asked]
    run(command, namespace=cluster.topology.hosts["n1"].namespace, answers=(0, 1))
    return (gate.directory / "root.pem").exists()


def _envoy_of(gate: Waypoint) -> int:
    if gate.process is None:
        raise RuntimeError(f"{gate.name} does not run")
    return next(one.pid for one in psutil.Process(gate.process.pid).children(recursive=True) if "envoy" in one.name())


def _wait_for_answers(mesh: BenchMesh, lane: Lane) -> None:
    command = [str(mesh.load), "http-rtt", lane.address, "10"]
    eventually(lambda: run(command, namespace=lane.namespace, answers=(0, 1)), f"requests to be answered, {lane.name}", timeout_s=60)
