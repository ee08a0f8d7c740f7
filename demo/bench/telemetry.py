"""What TCP's figures and the names of processes cost: mutual TLS between two pods of a node, all on one CPU, the agent's work included.

Two nodes that differ in nothing but the switch are measured side by side in the same rounds.
"""

from contextlib import ExitStack
from pathlib import Path

from demo import cgroups, manifests
from demo.bench.captures import CONGESTION, COST, CPU
from demo.bench.measure import Lane, build_load, new_connections, round_trip, rounds
from demo.bench.mesh import APP_PORT, Say, on_cpu, serve
from demo.bench.results import Comparison, Result
from demo.cluster import Cluster
from demo.topology import Pod, Topology

OFF = "off"
SWITCH = (OFF, "on")
METRICS = (new_connections(COST), round_trip("p50", COST))


def measure_telemetry(say: Say, count: int) -> list[Result]:
    """One comparison: with and without."""
    say("building a node with telemetry and one without")
    with ExitStack() as undo:
        cluster = undo.enter_context(Cluster(undo.enter_context(Topology(congestion=CONGESTION))))
        load = build_load(cluster.directory)
        pods = {switch: _add_pods(cluster, switch) for switch in SWITCH}
        namespaces = [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=True)]
        enrolled = [manifests.pod(pod, service_account="default", app=pod.name) for found in pods.values() for pod in found]
        nodes = [manifests.node(switch, zone="a") for switch in SWITCH]
        cluster.apply("mesh", [*namespaces, *nodes, manifests.service_account("default"), *enrolled])
        cluster.start_controller()
        lanes = [_start(cluster, switch, *pods[switch], load, undo) for switch in SWITCH]
        title = f"TCP telemetry, medians of {count} rounds, all on one CPU"
        return [Comparison(title, METRICS, rounds(load, lanes, METRICS, count, say), OFF)]


def _add_pods(cluster: Cluster, switch: str) -> tuple[Pod, Pod]:
    cluster.topology.add_node(switch)
    return cluster.topology.add_pod(switch, f"client-{switch}"), cluster.topology.add_pod(switch, f"server-{switch}")


def _start(cluster: Cluster, switch: str, client: Pod, server: Pod, load: Path, undo: ExitStack) -> Lane:
    """Both nodes know the cgroup of the client: what else is done with it is done on both."""
    serving = serve(load, server, cluster.directory, undo, cpu=CPU)
    cgroup = cgroups.make(client.namespace)
    if cgroup is None:
        raise RuntimeError("there are no cgroups of version 2 here, and so no processes to name")
    undo.callback(cgroups.remove, cgroup)
    cluster.start_agent(switch, f"--tcp-telemetry={switch}", "--proxy-workers=1", under=on_cpu(CPU))
    cluster.enrol(server, service_account="default")
    cluster.enrol(client, service_account="default", cgroup=cgroup.name)
    proxy = cluster.proxy_pid(switch)
    if proxy is None:
        raise RuntimeError(f"no proxy runs on the node that has telemetry {switch}")
    processes = (serving.pid, proxy, cluster.agents[switch].pid)
    return Lane(switch, client.namespace, f"{server.ipv4}:{APP_PORT}", processes, client=True, cpu=CPU, cgroup=cgroup)
