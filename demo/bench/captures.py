"""What each way to capture costs: plaintext through one proxy, into a pod and out of one, all on one CPU, so that cost is speed.

Every way has a node of its own with its agent and its proxy, so that they are measured side by side in the same rounds. The field's
way, REDIRECT with the source kept, is what the others are compared with. TCP does not pace itself (Reno): where a machine has BBR, its
timers take most of the time, and hide what is to be seen. One node more knows the cgroup of its pod, whose programs then mark what it dials
ahead of its first packet (`ebpf-cgroup`); that, too, is carried by the proxy here, wherever it goes.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from demo import cgroups, manifests
from demo.bench.measure import Lane, build_load, bulk, new_connections, round_trip, rounds
from demo.bench.mesh import APP_PORT, Say, on_cpu, serve
from demo.bench.results import Comparison, Result
from demo.cluster import Cluster
from demo.shell import Process
from demo.topology import Pod, Topology
from nodeagent.capture.base import Way
from nodeagent.capture.choice import ways

CPU = 0
CONGESTION = "reno"
COST = "CPU of all"
METRICS = (new_connections(COST), round_trip("p50", COST), bulk(1, COST))
WAYS = tuple(way.value for way in ways())
IN_CGROUP = "ebpf-cgroup"
NODES = (*WAYS, IN_CGROUP)
BASELINE = Way.REDIRECT.value


@dataclass(frozen=True)
class Node:
    """A node that captures one way: a pod in the mesh, and two beside it; servers listen in the first and the last."""

    name: str
    pods: dict[str, Pod]
    servers: dict[str, Process]
    mesh: tuple[int, ...]
    """Its agent, which hears of every connection, and its proxy."""
    cgroup: Path | None = None
    """Of the pod in the mesh, if its agent knows it."""

    def into(self) -> Lane:
        """From outside the mesh into the pod."""
        return self._lane("in", "client", "inside", self.mesh)

    def out(self) -> Lane:
        """From the pod to what is outside the mesh."""
        return replace(self._lane("out", "inside", "server", self.mesh), cgroup=self.cgroup)

    def direct(self) -> Lane:
        """Without the mesh."""
        return replace(self._lane("", "client", "server", ()), name="direct")

    def _lane(self, direction: str, source: str, target: str, between: tuple[int, ...]) -> Lane:
        processes = (self.servers[target].pid, *between)
        address = f"{self.pods[target].ipv4}:{APP_PORT}"
        return Lane(f"{direction}: {self.name}", self.pods[source].namespace, address, processes, client=True, cpu=CPU)


def measure_captures(say: Say, count: int) -> list[Result]:
    """Two comparisons, in and out; each has the direct way between two pods of a node beside it."""
    say("building a node for each way to capture")
    with ExitStack() as undo:
        cluster = undo.enter_context(Cluster(undo.enter_context(Topology(congestion=CONGESTION))))
        load = build_load(cluster.directory)
        pods = {node: _add_pods(cluster, node) for node in NODES}
        namespaces = [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=True)]
        inside = [manifests.pod(found["inside"], service_account="default", app="inside") for found in pods.values()]
        cluster.apply(
            "mesh", [*namespaces, *(manifests.node(node, zone="a") for node in NODES), manifests.service_account("default"), *inside]
        )
        cluster.start_controller()
        nodes = [_start(cluster, node, pods[node], load, undo) for node in NODES]
        return [
            _compare(f"{title}, medians of {count} rounds, all on one CPU", [nodes[0].direct(), *lanes], load, count, say)
            for title, lanes in (
                ("plaintext into a pod", [node.into() for node in nodes if node.cgroup is None]),
                ("plaintext out of a pod", [node.out() for node in nodes]),
            )
        ]


def _add_pods(cluster: Cluster, node: str) -> dict[str, Pod]:
    cluster.topology.add_node(node)
    return {name: cluster.topology.add_pod(node, f"{name}-{node}") for name in ("inside", "client", "server")}


def _start(cluster: Cluster, node: str, pods: dict[str, Pod], load: Path, undo: ExitStack) -> Node:
    cgroup = _cgroup_of(pods["inside"], undo) if node == IN_CGROUP else None
    way = Way.EBPF.value if cgroup else node
    servers = {name: serve(load, pods[name], cluster.directory, undo, cpu=CPU) for name in ("inside", "server")}
    # The proxy is started by the agent, and takes over what it may run on.
    cluster.start_agent(node, f"--capture={way}", "--outside=proxied", "--proxy-workers=1", under=on_cpu(CPU))
    cluster.enrol(pods["inside"], service_account="default", cgroup=cgroup.name if cgroup else "")
    proxy = cluster.proxy_pid(node)
    if proxy is None:
        raise RuntimeError(f"no proxy runs on {node}")
    return Node(node, pods, servers, (cluster.agents[node].pid, proxy), cgroup)


def _cgroup_of(pod: Pod, undo: ExitStack) -> Path:
    cgroup = cgroups.make(pod.namespace)
    if cgroup is None:
        raise RuntimeError("there are no cgroups of version 2 here, and so none to know a pod's connections by")
    undo.callback(cgroups.remove, cgroup)
    return cgroup


def _compare(title: str, lanes: list[Lane], load: Path, count: int, say: Say) -> Comparison:
    figures = rounds(load, lanes, METRICS, count, say)
    baseline = next((lane.name for lane in lanes if lane.name.endswith(f": {BASELINE}")), None)
    return Comparison(title, METRICS, figures, baseline)
