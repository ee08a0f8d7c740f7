"""What each way to capture costs: plaintext through one proxy, into a pod and out of one, all on one CPU, so that cost is speed.

Every way has a node of its own with its agent and its proxy, so that they are measured side by side in the same rounds. The field's
way, REDIRECT with the source kept, is what the others are compared with. TCP does not pace itself (Reno): where a machine has BBR, its
timers take most of the time, and hide what is to be seen.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from demo import manifests
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
BASELINE = Way.REDIRECT.value


@dataclass(frozen=True)
class Node:
    """A node that captures one way: a pod in the mesh, and two beside it; servers listen in the first and the last."""

    name: str
    pods: dict[str, Pod]
    servers: dict[str, Process]
    mesh: tuple[int, ...]
    """Its agent, which hears of every connection, and its proxy."""

    def into(self) -> Lane:
        """From outside the mesh into the pod."""
        return self._lane("in", "client", "inside", self.mesh)

    def out(self) -> Lane:
        """From the pod to what is outside the mesh."""
        return self._lane("out", "inside", "server", self.mesh)

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
        pods = {way: _add_pods(cluster, way) for way in WAYS}
        namespaces = [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=True)]
        inside = [manifests.pod(found["inside"], service_account="default", app="inside") for found in pods.values()]
        cluster.apply(
            "mesh", [*namespaces, *(manifests.node(way, zone="a") for way in WAYS), manifests.service_account("default"), *inside]
        )
        cluster.start_controller()
        nodes = [_start(cluster, way, pods[way], load, undo) for way in WAYS]
        return [
            _compare(f"{title}, medians of {count} rounds, all on one CPU", [nodes[0].direct(), *lanes], load, count, say)
            for title, lanes in (
                ("plaintext into a pod", [node.into() for node in nodes]),
                ("plaintext out of a pod", [node.out() for node in nodes]),
            )
        ]


def _add_pods(cluster: Cluster, way: str) -> dict[str, Pod]:
    cluster.topology.add_node(way)
    return {name: cluster.topology.add_pod(way, f"{name}-{way}") for name in ("inside", "client", "server")}


def _start(cluster: Cluster, way: str, pods: dict[str, Pod], load: Path, undo: ExitStack) -> Node:
    servers = {name: serve(load, pods[name], cluster.directory, undo, cpu=CPU) for name in ("inside", "server")}
    # The proxy is started by the agent, and takes over what it may run on.
    cluster.start_agent(way, f"--capture={way}", "--proxy-workers=1", under=on_cpu(CPU))
    cluster.enrol(pods["inside"], service_account="default")
    proxy = cluster.proxy_pid(way)
    if proxy is None:
        raise RuntimeError(f"no proxy runs on {way}")
    return Node(way, pods, servers, (cluster.agents[way].pid, proxy))


def _compare(title: str, lanes: list[Lane], load: Path, count: int, say: Say) -> Comparison:
    figures = rounds(load, lanes, METRICS, count, say)
    baseline = next((lane.name for lane in lanes if lane.name.endswith(f": {BASELINE}")), None)
    return Comparison(title, METRICS, figures, baseline)
