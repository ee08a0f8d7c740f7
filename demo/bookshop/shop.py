"""The bookshop on a mesh: nodes, pods with their services, a waypoint for the namespace, and rules that proxies go by at once."""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from demo import manifests
from demo.admin import ask
from demo.bookshop.accounts import Account, Conduct
from demo.bookshop.services import PORT
from demo.bookshop.visitor import Place, Visitor
from demo.cluster import Cluster, eventually
from demo.driven import Driven
from demo.manifests import Manifest
from demo.shell import Process, with_resolver
from demo.topology import Pod
from demo.waypoint import Waypoint

T = TypeVar("T")
SOURCE: Final = Path(__file__).parent.parent.parent
RULES: Final = Path(__file__).parent / "manifests"
WAYPOINT: Final = "bookshop"
STANDING: Final = ("mesh-config", "versions")
"""Manifests that hold from the beginning to the end."""
IN_FORCE_S: Final = 30.0
KINDS: Final = ("listeners", "clusters", "endpoints", "routes")
_IN_FLUX: Final = (
    "cluster_manager.warming_clusters",
    "listener_manager.total_listeners_warming",
    "listener_manager.total_listeners_draining",
    "listener_manager.total_filter_chains_draining",
)


@dataclass(frozen=True)
class Role:
    """What a pod of the shop runs, and where."""

    node: str
    service: str
    version: str = "v1"


ROLES: Final = {
    "productpage": Role("n1", "productpage"),
    "details-1": Role("n1", "details"),
    "details-2": Role("n2", "details"),
    "reviews-v1": Role("n1", "reviews"),
    "reviews-v2": Role("n2", "reviews", "v2"),
    "reviews-v3": Role("n2", "reviews", "v3"),
    "ratings": Role("n2", "ratings"),
}
VIPS: Final = {"productpage": "10.96.0.20", "details": "10.96.0.21", "reviews": "10.96.0.22", "ratings": "10.96.0.23"}
WAYPOINT_VIP: Final = "10.96.0.9"
RESOLVER_VIP: Final = "10.96.0.53"
"""Nobody answers there: names of the mesh are answered by the agents."""


@dataclass
class App:
    """A service's process in its pod."""

    pod: Pod
    control: Path
    process: Process

    def account(self) -> Account:
        """What it has counted so far."""
        return msgspec.convert(ask(self.control, "/account"), Account)

    def behave(self, conduct: Conduct) -> None:
        """From now on, the next request being the first."""
        ask(self.control, f"/conduct?{conduct.query}")

    @contextmanager
    def misbehaving(self, conduct: Conduct) -> Iterator[None]:
        """For the length of a block; if it fails, so does the story, and nobody is there any more to be told."""
        self.behave(conduct)
        yield
        self.behave(Conduct())


@dataclass
class Bookshop:
    """`open` it once; `close` ends what it started, also after half of an opening."""

    cluster: Cluster
    visitor: Visitor = field(init=False)
    apps: dict[str, App] = field(default_factory=dict)
    proxies: list[Driven] = field(default_factory=list)
    flags: Counter[str] = field(default_factory=Counter)
    """How often which of Envoy's response flags must be in the waypoint's access log by now."""

    @property
    def waypoint(self) -> Driven:
        return self.proxies[0]

    def open(self, say: Callable[[str], None]) -> None:
        """Builds all of it; every call between services goes through the waypoint when it returns."""
        topology = self.cluster.topology
        for node in ("n1", "n2"):
            topology.add_node(node)
        pods = {name: topology.add_pod(role.node, name) for name, role in ROLES.items()}
        visitor = topology.add_pod("n1", "visitor")
        self.visitor = Visitor(visitor.netns_path)
        gate = Waypoint(self.cluster, topology.add_pod("n1", WAYPOINT), WAYPOINT, WAYPOINT_VIP)
        self.proxies.append(gate)
        self.cluster.apply("mesh", [*_mesh(pods, visitor), *gate.objects()])
        for name in STANDING:
            self.cluster.write(name, self.text(name))
        say(f"{len(pods)} services, a visitor and a waypoint, each in a pod of its own, on two nodes")
        for name, role in ROLES.items():
            self.apps[name] = self._start(pods[name], role)
        self.cluster.start_controller()
        gate.start(wait=False)
        for node in ("n1", "n2"):
            self.cluster.start_agent(node)
        self._enrol(pods, visitor)
        for name, app in self.apps.items():
            self.cluster.wait_for(app.process, app.control.exists, f"{name} to listen")
        say("both agents are ready, every pod is captured and has its identity")
        self.eventually(lambda: gate.synced, "the waypoint to have its configuration")
        for service in VIPS:
            self.eventually(partial(self._served_through_waypoint, service), f"{service} to answer")
        say("every service answers through the waypoint")

    def close(self) -> None:
        """What the cluster does not end by itself."""
        for proxy in self.proxies:
            proxy.stop()
        for app in self.apps.values():
            app.process.stop(signal_number=signal.SIGKILL)

    def place(self, service: str) -> Place:
        """Where a visitor finds a service."""
        return Place(VIPS[service], PORT, service)

    def eventually(self, check: Callable[[], T], what: str, *, timeout_s: float = IN_FORCE_S) -> T:
        """What `check` says once it is true."""
        return eventually(check, what, timeout_s=timeout_s * self.cluster.patience)

    @contextmanager
    def neighbour(self, name: str, node: str, vip: str, ports: Mapping[str, int], command: Sequence[str]) -> Iterator[Pod]:
        """Another workload of the mesh for the length of a block, not behind the waypoint, with a service of its name."""
        pod = self.cluster.topology.add_pod(node, name)
        process = Process(name, command, self.cluster.directory / f"{name}.log", pod.namespace, {"PYTHONPATH": str(SOURCE)})
        listed = [{"name": port, "port": number, "targetPort": number} for port, number in ports.items()]
        service = manifests.service(name, app=name, vips=(vip,), spec={"ports": listed})
        try:
            own = [manifests.service_account(name), manifests.pod(pod, service_account=name, app=name), beside(service)]
            self.cluster.apply(name, own)
            self.cluster.enrol(pod, service_account=name)
            process.start()
            yield pod
        finally:
            process.stop()
            self.cluster.unlist(pod)
            self.cluster.delete(name)
            self.cluster.topology.remove_pod(pod)

    # ---- rules

    def text(self, name: str) -> str:
        """A manifest of the bookshop's, as it is applied."""
        return (RULES / f"{name}.yaml").read_text()

    @contextmanager
    def in_force(self, name: str, text: str) -> Iterator[None]:
        """A manifest for the length of a block, within which every proxy goes by it; a block that fails ends the story."""
        self.change(lambda: self.cluster.write(name, text))
        yield
        self.change(lambda: self.cluster.delete(name))

    def change(self, make: Callable[[], object]) -> None:
        """Makes a change that concerns a proxy; returns once they have all taken what came of it."""
        before = self._served()
        make()
        self.eventually(lambda: self._served() != before, "the change to reach what proxies are served")
        self.eventually(self._settled, "the proxies to take the change")

    def _served(self) -> dict[tuple[str, str, str], str]:
        """The versions of what they are served."""
        return {
            (proxy.name, kind, one["name"]): one["version"]
            for proxy in self.proxies
            for kind in KINDS
            for one in ask(self.cluster.admin_socket, f"/proxies/config?proxy=default/{proxy.name}&kind={kind}")
        }

    def _settled(self) -> bool:
        """Whether they have acknowledged all, and nothing that was replaced is left."""
        return all(proxy.synced and not any(map(proxy.stat, _IN_FLUX)) for proxy in self.proxies)

    # ---- parts of the opening

    def _start(self, pod: Pod, role: Role) -> App:
        control = self.cluster.directory / f"{pod.name}.sock"
        resolver = self.cluster.directory / "resolv.conf"
        resolver.write_text(f"nameserver {RESOLVER_VIP}\nsearch default.svc.cluster.local\noptions ndots:5\n")
        module = [sys.executable, "-m", "demo.bookshop.app", role.service, f"--pod={pod.name}"]
        command = with_resolver(resolver, [*module, f"--version={role.version}", f"--control={control}"])
        log = self.cluster.directory / f"{pod.name}.log"
        return App(pod, control, Process(pod.name, command, log, pod.namespace, {"PYTHONPATH": str(SOURCE)}).start())

    def _enrol(self, pods: dict[str, Pod], visitor: Pod) -> None:
        accounts = {name: (pod, ROLES[name].service) for name, pod in pods.items()} | {"visitor": (visitor, "visitor")}
        for pod, account in accounts.values():
            self.cluster.list_pod(pod, service_account=account)
        for name, (pod, _) in accounts.items():
            self.eventually(partial(self.cluster.enrolled, pod), f"{name} to be captured with an identity")

    def _served_through_waypoint(self, service: str) -> bool:
        answer = self.visitor.get(self.place(service))
        return answer.status == 200 and "x-envoy-upstream-service-time" in answer.headers


def _mesh(pods: dict[str, Pod], visitor: Pod) -> list[Manifest]:
    """All that is there from the beginning, the waypoint's own objects excepted."""
    documents: list[Manifest] = [manifests.namespace("istio-system", enrolled=False), namespace()]
    # In one zone: otherwise what is near comes first, as outlier detection asks of Istio.
    documents += [manifests.node(node, zone="a") for node in ("n1", "n2")]
    documents += [manifests.service_account(name) for name in (*VIPS, "visitor")]
    documents += [manifests.pod(visitor, service_account="visitor", app="visitor")]
    for name, pod in pods.items():
        role = ROLES[name]
        labels = {"version": role.version}
        documents.append(manifests.pod(pod, service_account=role.service, app=role.service, labels=labels))
    ports: list[dict[str, Any]] = [{"name": "http", "port": PORT, "targetPort": PORT}]
    documents += [manifests.service(name, app=name, vips=(vip,), spec={"ports": ports}) for name, vip in VIPS.items()]
    return documents


def beside(service: Manifest) -> Manifest:
    """A service that is not behind the waypoint, whatever the namespace says: it comes and goes without news for the proxies."""
    service["metadata"].setdefault("labels", {})["istio.io/use-waypoint"] = "none"
    return service


def namespace() -> Manifest:
    """Enrolled, and behind the waypoint: two labels."""
    made = manifests.namespace("default", enrolled=True)
    made["metadata"]["labels"]["istio.io/use-waypoint"] = WAYPOINT
    return made
