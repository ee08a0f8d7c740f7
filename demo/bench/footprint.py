"""What the parts take on a node: memory, and the time until a new pod is in the mesh."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import psutil

from demo import manifests
from demo.bench.measure import IdleConnections, Lane
from demo.bench.mesh import APP_PORT, BenchMesh, Say, bench_mesh
from demo.bench.results import Figures, Result
from demo.cluster import Cluster, eventually

IDLE_CONNECTIONS = 10_000
PODS = 30
ENROLMENTS = 5


def measure_footprint(say: Say, _rounds: int) -> list[Result]:
    """Each figure once; enrolment is a median."""
    with bench_mesh(say) as mesh:
        return [Figures(_resident(mesh.cluster, "idle") | _memory(mesh, say) | _enrolment(mesh, say))]


def _memory(mesh: BenchMesh, say: Say) -> dict[str, float]:
    """Resident memory of agent and proxy with 10,000 idle connections, and with 30 pods."""
    figures: dict[str, float] = {}
    say(f"{IDLE_CONNECTIONS} idle connections")
    lane = Lane("idle", mesh.pods["shop"].namespace, f"{mesh.pods['api-2'].ipv4}:{APP_PORT}")
    with IdleConnections(mesh.load, lane, IDLE_CONNECTIONS):
        figures |= _resident(mesh.cluster, f"{IDLE_CONNECTIONS} idle connections")
    say(f"{PODS} more pods on n1")
    more = [mesh.cluster.topology.add_pod("n1", f"more-{number}") for number in range(PODS)]
    mesh.cluster.apply("more", [manifests.pod(pod, service_account="api", app="more") for pod in more])
    for pod in more:
        mesh.cluster.enrol(pod, service_account="api")
    return figures | {what: value for what, value in _resident(mesh.cluster, f"{PODS} more pods").items() if "n1," in what}


def _enrolment(mesh: BenchMesh, say: Say) -> dict[str, float]:
    """From the entry in the node's list to the first answered call in mutual TLS, of a client that tries all the time.

    The server is STRICT: what is answered is not plaintext.
    """
    say("enrolling pods")
    cluster, server = mesh.cluster, mesh.pods["api-3"]
    cluster.start_app(server)
    cluster.enrol(server, service_account="api")
    cluster.apply("strict", [manifests.peer_authentication("strict", "STRICT", namespace="default")])
    took_ms = []
    for number in range(ENROLMENTS):
        pod = cluster.topology.add_pod("n1", f"late-{number}")
        cluster.apply(f"late-{number}", [manifests.pod(pod, service_account="shop", app="shop")])
        calls = cluster.keep_calling(pod.namespace, server.ipv4, 8080, name=f"late-{number}")
        eventually(partial(_any, calls, ok=False), "a refusal before enrolment")
        begin = time.time()
        cluster.list_pod(pod, service_account="shop")
        first = eventually(partial(_any, calls, ok=True), "an answer after enrolment")
        took_ms.append((first["at"] - begin) * 1000)
    return {"from a pod's entry in the list to its first answered call in mutual TLS (ms)": median(took_ms)}


def _resident(cluster: Cluster, when: str) -> dict[str, float]:
    """Resident memory of each part in MB, and what of it is the agent's alone (the rest is library pages that processes share)."""
    figures = {}
    for node, agent in cluster.agents.items():
        figures[f"agent {node}, {when} (MB)"] = psutil.Process(agent.pid).memory_info().rss / 1e6
        if pid := cluster.proxy_pid(node):
            figures[f"proxy {node}, {when} (MB)"] = psutil.Process(pid).memory_info().rss / 1e6
    for node, agent in cluster.agents.items():
        figures[f"agent {node}, {when}, not shared (MB)"] = psutil.Process(agent.pid).memory_full_info().uss / 1e6
    return figures


def _any(calls: Callable[[], list[Any]], *, ok: bool) -> Any:
    return next((call for call in calls() if call["ok"] is ok), None)
