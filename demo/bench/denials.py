"""What a denial costs that needs no identity: refused by the kernel at the first packet, and by the proxy; STRICT, all on one CPU."""

from contextlib import ExitStack
from pathlib import Path

from demo import manifests
from demo.bench.measure import Lane, build_load, refused_connections, rounds
from demo.bench.mesh import APP_PORT, Say, on_cpu, serve
from demo.bench.results import Comparison, Result
from demo.cluster import Cluster, eventually
from demo.topology import Pod, Topology

CPU = 0
METRICS = (refused_connections("CPU of all"),)
NODES = {"by the proxy": "off", "by the kernel": "on"}
"""What `--prefilter` is."""


def measure_denials(say: Say, count: int) -> list[Result]:
    """A node for each, with a pod in the mesh and a client outside of it."""
    say("building a node that refuses in the kernel, and one that does not")
    with ExitStack() as undo:
        cluster = undo.enter_context(Cluster(undo.enter_context(Topology())))
        load = build_load(cluster.directory)
        pods = {name: _add_pods(cluster, f"at-{prefilter}") for name, prefilter in NODES.items()}
        documents = [
            manifests.namespace("istio-system", enrolled=False),
            manifests.namespace("default", enrolled=True),
            manifests.service_account("default"),
            manifests.peer_authentication("strict", "STRICT", namespace="default"),
        ]
        documents += [manifests.node(f"at-{prefilter}", zone="a") for prefilter in NODES.values()]
        documents += [manifests.pod(inside, service_account="default", app="inside") for inside, _ in pods.values()]
        cluster.apply("mesh", documents)
        cluster.start_controller()
        lanes = [_start(cluster, name, pods[name], load, undo) for name in NODES]
        title = f"plaintext refused by STRICT, medians of {count} rounds, all on one CPU"
        return [Comparison(title, METRICS, rounds(load, lanes, METRICS, count, say), lanes[0].name)]


def _add_pods(cluster: Cluster, node: str) -> tuple[Pod, Pod]:
    cluster.topology.add_node(node)
    return cluster.topology.add_pod(node, f"inside-{node}"), cluster.topology.add_pod(node, f"client-{node}")


def _start(cluster: Cluster, name: str, pods: tuple[Pod, Pod], load: Path, undo: ExitStack) -> Lane:
    inside, client = pods
    node = f"at-{NODES[name]}"
    serve(load, inside, cluster.directory, undo, cpu=CPU)
    cluster.start_agent(node, "--capture=ebpf", f"--prefilter={NODES[name]}", "--proxy-workers=1", under=on_cpu(CPU))
    cluster.enrol(inside, service_account="default")
    wanted = "refuses" if NODES[name] == "on" else "switched off"
    eventually(lambda: wanted in cluster.nodeagent(node, "capture"), f"{node} to refuse as it is to")
    proxy = cluster.proxy_pid(node)
    if proxy is None:
        raise RuntimeError(f"no proxy runs on {node}")
    processes = (cluster.agents[node].pid, proxy)
    return Lane(f"refused {name}", client.namespace, f"{inside.ipv4}:{APP_PORT}", processes, client=True, cpu=CPU)
