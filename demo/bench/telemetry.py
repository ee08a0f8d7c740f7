"""What TCP's figures and the names of processes cost: mutual TLS on one node and across two, all on one CPU, the agents' work included.

Two pairs of nodes that differ in nothing but the switch are measured side by side in the same rounds.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from demo import cgroups, manifests
from demo.bench.captures import CONGESTION, COST, CPU
from demo.bench.measure import Lane, build_load, new_connections, round_trip, rounds
from demo.bench.mesh import APP_PORT, Say, on_cpu, serve
from demo.bench.results import Comparison, Result
from demo.cluster import Cluster
from demo.shell import Process
from demo.topology import Pod, Topology

OFF = "off"
SWITCH = (OFF, "on")
METRICS = (new_connections(COST), round_trip("p50", COST))


@dataclass(frozen=True)
class Pair:
    """Two nodes: a client and a server on the first, a server on the second."""

    switch: str
    nodes: tuple[str, str]
    client: Pod
    servers: tuple[Pod, Pod]

    @property
    def pods(self) -> tuple[Pod, ...]:
        return self.client, *self.servers


def measure_telemetry(say: Say, count: int) -> list[Result]:
    """Two comparisons: on one node, and across nodes."""
    say("building two nodes with telemetry and two without")
    with ExitStack() as undo:
        cluster = undo.enter_context(Cluster(undo.enter_context(Topology(congestion=CONGESTION))))
        load = build_load(cluster.directory)
        pairs = [_pair(cluster, switch) for switch in SWITCH]
        namespaces = [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=True)]
        pods = [manifests.pod(pod, service_account="default", app=pod.name) for pair in pairs for pod in pair.pods]
        nodes = [manifests.node(name, zone="a") for pair in pairs for name in pair.nodes]
        cluster.apply("mesh", [*namespaces, *nodes, manifests.service_account("default"), *pods])
        cluster.start_controller()
        lanes = [_lanes(cluster, pair, load, undo) for pair in pairs]
        return [
            _compare(f"TCP telemetry, {where}, medians of {count} rounds, all on one CPU", [of[index] for of in lanes], load, count, say)
            for index, where in enumerate(("one node", "across nodes"))
        ]


def _compare(title: str, lanes: Sequence[Lane], load: Path, count: int, say: Say) -> Comparison:
    return Comparison(title, METRICS, rounds(load, lanes, METRICS, count, say), OFF)


def _pair(cluster: Cluster, switch: str) -> Pair:
    topology = cluster.topology
    near, far = f"{switch}-1", f"{switch}-2"
    for node in (near, far):
        topology.add_node(node)
    servers = topology.add_pod(near, f"near-{switch}"), topology.add_pod(far, f"far-{switch}")
    return Pair(switch, (near, far), topology.add_pod(near, f"client-{switch}"), servers)


def _lanes(cluster: Cluster, pair: Pair, load: Path, undo: ExitStack) -> tuple[Lane, Lane]:
    """To the server on the client's node, and to the other; both pairs know the cgroup of the client, and what else is done with it."""
    serving = [serve(load, server, cluster.directory, undo, cpu=CPU) for server in pair.servers]
    cgroup = cgroups.make(pair.client.namespace)
    if cgroup is None:
        raise RuntimeError("there are no cgroups of version 2 here, and so no processes to name")
    undo.callback(cgroups.remove, cgroup)
    for node in pair.nodes:
        cluster.start_agent(node, f"--tcp-telemetry={pair.switch}", "--proxy-workers=1", under=on_cpu(CPU))
    for server in pair.servers:
        cluster.enrol(server, service_account="default")
    cluster.enrol(pair.client, service_account="default", cgroup=cgroup.name)

    def lane(server: Pod, serving: Process, *nodes: str) -> Lane:
        processes = (serving.pid, *(pid for node in nodes for pid in (cluster.proxy_pid(node), cluster.agents[node].pid) if pid))
        address = f"{server.ipv4}:{APP_PORT}"
        return Lane(pair.switch, pair.client.namespace, address, processes, client=True, cpu=CPU, cgroup=cgroup)

    return lane(pair.servers[0], serving[0], pair.nodes[0]), lane(pair.servers[1], serving[1], *pair.nodes)
