"""The mesh that is measured: the demo's, with the load's server in two of its pods, and pods beside it that stay outside the mesh."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.bench.measure import build_load
from demo.cluster import Cluster, basic_mesh, eventually
from demo.shell import CommandError, Process, run
from demo.topology import Pod, Topology

APP_PORT = 7000
SERVERS = ("api-1", "api-2", "plain-2", "plain-3")
Say = Callable[[str], None]
"""A line of progress."""


@dataclass(frozen=True)
class BenchMesh:
    """`load` is the load's program; its server runs in the pods of SERVERS."""

    cluster: Cluster
    load: Path
    pods: dict[str, Pod]

    @property
    def proxies(self) -> tuple[int, ...]:
        """Of the two nodes."""
        return tuple(pid for node in ("n1", "n2") if (pid := self.cluster.proxy_pid(node)))


@contextmanager
def bench_mesh(say: Say) -> Iterator[BenchMesh]:
    """Builds it, and takes it down after the block."""
    say("building the mesh")
    with ExitStack() as undo:
        cluster = undo.enter_context(Cluster(undo.enter_context(Topology())))
        mesh = BenchMesh(cluster, build_load(cluster.directory), basic_mesh(cluster, enrolled=True))
        for node, name in (("n1", "plain-1"), ("n2", "plain-2"), ("n1", "plain-3")):
            mesh.pods[name] = cluster.topology.add_pod(node, name)
        for name in SERVERS:
            serve(mesh.load, mesh.pods[name], cluster.directory, undo)
        cluster.start_controller()
        for node in ("n1", "n2"):
            cluster.start_agent(node)
        for name in ("shop", "api-1", "api-2"):
            cluster.enrol(mesh.pods[name], service_account="shop" if name == "shop" else "api")
        yield mesh


def serve(load: Path, pod: Pod, directory: Path, undo: ExitStack, *, cpu: int | None = None) -> Process:
    """The load's server in a pod, on one CPU if that is said; it listens when this returns."""
    command = [*on_cpu(cpu), str(load), "serve", str(APP_PORT)]
    server = Process(f"serve {pod.name}", command, directory / f"serve-{pod.name}.log", pod.namespace).start()
    undo.callback(server.stop)

    def listens() -> bool:
        if not server.alive:
            raise CommandError(f"{server.name} ended:\n{server.tail()}")
        return f":{APP_PORT}" in run(["ss", "-Hltn"], namespace=pod.namespace)

    eventually(listens, f"{server.name} to listen")
    return server


def on_cpu(cpu: int | None) -> list[str]:
    """The words before a command that is to run on one CPU."""
    return [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
