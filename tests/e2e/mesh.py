"""A whole mesh under test: two nodes, their pods and a client outside, with calls made from sockets in the pods' own namespaces."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo import manifests
from demo.cluster import TRUST_DOMAIN, Cluster, basic_mesh, eventually
from demo.manifests import Manifest
from demo.shell import Process
from demo.topology import Pod, Topology
from demo.wire import Wiretap
from nodeagent.linux.namespaces import Namespace

HTTP = 8080
ECHO = 9000
NODES = ("n1", "n2")
SECRET = b"these-bytes-must-not-be-seen-on-the-wire"
CALL_S = 5.0
LINGER = struct.pack("ii", 1, 0)


def spiffe(service_account: str, namespace: str = "default") -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{service_account}"


def principal(service_account: str, namespace: str = "default") -> str:
    """As policies write it."""
    return spiffe(service_account, namespace).removeprefix("spiffe://")


@dataclass
class Call:
    """How an HTTP call ended: `pod` and `client` (as the application saw it) if it was answered, `error` if not."""

    pod: str = ""
    client: str = ""
    error: str = ""
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        return bool(self.pod)


@dataclass
class Stream:
    """Calls one after the other, each on a new connection, from a thread of its own."""

    calls: list[Call] = field(default_factory=list)

    @property
    def failed(self) -> list[Call]:
        return [call for call in self.calls if not call.ok]


class Mesh:
    """`pods` by name. Sources of calls are pods, or names of namespaces (`outside`)."""

    def __init__(self, cluster: Cluster, pods: dict[str, Pod]) -> None:
        self.cluster = cluster
        self.topology = cluster.topology
        self.pods = pods
        self.outside = cluster.topology.hosts["outside"].namespace
        self.apps: dict[str, Process] = {}
        self.labels: dict[str, str] = {}
        """The label `app` of pods, by name."""
        self._held: list[socket.socket] = []

    # ---- calls

    def dial(self, source: Pod | str, host: object, port: int, *, mark: int = 0, timeout_s: float = CALL_S) -> socket.socket:
        """A TCP connection from a socket made in the source's namespace; raises OSError."""
        name = source if isinstance(source, str) else source.namespace
        with Namespace.open(f"/run/netns/{name}") as namespace:
            made = namespace.run(socket.socket, socket.AF_INET6 if ":" in str(host) else socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(timeout_s)
        try:
            if mark:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            made.connect((str(host), port))
        except OSError:
            made.close()
            raise
        return made

    def call(self, source: Pod | str, host: object, port: int = HTTP, *, mark: int = 0, timeout_s: float = CALL_S) -> Call:
        """One HTTP request on its own connection."""
        begin = time.monotonic()
        try:
            with self.dial(source, host, port, mark=mark, timeout_s=timeout_s) as connection:
                connection.sendall(b"GET /%b HTTP/1.1\r\nhost: mesh\r\n\r\n" % SECRET)
                with connection.makefile("rb") as answer:
                    while (line := answer.readline()) not in {b"\r\n", b""}:
                        pass
                    body = answer.readline() if line else b""
        except OSError as error:
            return Call(error=f"{type(error).__name__}: {error}", took_s=time.monotonic() - begin)
        took_s = time.monotonic() - begin
        if not body:
            return Call(error="closed without an answer", took_s=took_s)
        if not body.startswith(b"{"):
            return Call(error=body.decode(errors="replace"), took_s=took_s)  # a waypoint's own answer
        said = json.loads(body)
        return Call(said["pod"], said["client"].removeprefix("::ffff:"), took_s=took_s)

    def hold(self, source: Pod | str, host: object, port: int = ECHO, *, mark: int = 0) -> socket.socket:
        """A connection over which the echo has answered, open until the test ends; raises OSError."""
        connection = self.dial(source, host, port, mark=mark)
        self._held.append(connection)
        if not echoes(connection):
            raise ConnectionError("closed before an answer came")
        return connection

    def release(self) -> None:
        """Closes the connections of a test."""
        while self._held:
            self._held.pop().close()

    @contextmanager
    def stream(self, source: Pod | str, host: object, *, port: int = HTTP, timeout_s: float = 20.0) -> Iterator[Stream]:
        """Calls without a pause until the block ends."""
        stream, ended = Stream(), threading.Event()

        def run() -> None:
            while not ended.is_set():
                stream.calls.append(self.call(source, host, port, timeout_s=timeout_s))

        thread = threading.Thread(target=run, name="stream of calls")
        thread.start()
        try:
            eventually(lambda: stream.calls, "the first call of the stream")
            yield stream
        finally:
            ended.set()
            thread.join(30)

    # ---- configuration

    @contextmanager
    def applied(self, name: str, *documents: Manifest) -> Iterator[None]:
        """A file of manifests for the length of the block; the block sees it in force once it waits for its effect."""
        self.cluster.apply(name, documents)
        try:
            yield
        finally:
            self.cluster.delete(name)

    @contextmanager
    def policies(self, *documents: Manifest) -> Iterator[None]:
        """AuthorizationPolicies (and what else goes with them) that are in force on both nodes when the block begins, and gone after it."""
        policies = [document for document in documents if document["kind"] == "AuthorizationPolicy"]
        names = {policy["metadata"]["name"] for policy in policies}
        with self.applied("policies", *documents):
            self.wait(lambda: all(self._in_force(policy, node) for policy in policies for node in NODES), f"{names} in force on both nodes")
            yield
        self.wait(lambda: all(not names & self.policy_names(node) for node in NODES), f"{names} to be gone")

    def _in_force(self, policy: Manifest, node: str) -> bool:
        """Whether a node has the policy, and each workload there that its selector selects names it, which comes after the policy."""
        name, app = policy["metadata"]["name"], policy["spec"].get("selector", {}).get("matchLabels", {}).get("app")
        here = self.admin(node, "/workloads") if app is not None else []
        selected = {f"{entry['namespace']}/{entry['name']}" for entry in here if self.labels.get(entry["name"]) == app}
        return any(entry["name"] == name and selected <= set(entry["workloads"]) for entry in self.admin(node, "/policies"))

    def policy_names(self, node: str) -> set[str]:
        return {policy["name"] for policy in self.admin(node, "/policies")}

    # ---- what the node says

    def admin(self, node: str, path: str) -> Any:
        """What the agent answers on its admin socket; raises OSError if there is none."""
        return self.cluster.admin(node, path)

    def workload(self, pod: Pod) -> dict[str, Any]:
        return next((entry for entry in self.admin(pod.node, "/workloads") if entry["name"] == pod.name), {})

    def settled(self) -> bool:
        """Whether every agent is ready, in touch with the controller, and serves each of its pods."""
        try:
            states = [self.admin(node, "/status") for node in NODES]
        except OSError:
            return False
        return all(state["ready"] and state["controller"]["connected"] for state in states) and all(
            workload["ready"] for state in states for workload in state["workloads"]
        )

    def tails(self) -> str:
        """The ends of all logs, for the report of a failed test."""
        logs = sorted(file for pattern in ("*.log", "*/*.log", "*/run/*.log") for file in self.cluster.directory.glob(pattern))
        parts = [f"==> {file.relative_to(self.cluster.directory)}\n" + "\n".join(_tail(file)) for file in logs]
        return "\n".join(parts)

    @staticmethod
    def wait(check: Callable[[], object], what: str, *, timeout_s: float = 10.0) -> None:
        eventually(check, what, timeout_s=timeout_s)

    # ---- the network

    @contextmanager
    def wiretap(self, name: str, node: str = "n2") -> Iterator[Wiretap]:
        """What passes between a node and the rest during the block."""
        file, beyond = self.cluster.directory / f"{name}.pcap", self.topology.hosts[node].bridge_ipv4
        with Wiretap(self.topology.router, f"to-{node}", file, beyond=beyond) as tap:
            yield tap

    # ---- pods that come and go

    def add_pod(self, node: str, name: str, *, service_account: str, app: str | None = None, enrol: bool = True) -> Pod:
        """A pod with the demo's service in it, known to the controller."""
        pod = self.topology.add_pod(node, name)
        self.pods[name] = pod
        documents = [manifests.service_account(service_account), manifests.pod(pod, service_account=service_account, app=app or name)]
        self.cluster.apply(f"pod-{name}", documents)
        self.labels[name] = app or name
        self.apps[name] = self.cluster.start_app(pod)
        if enrol:
            self.cluster.enrol(pod, service_account=service_account)
        return pod

    def remove_pod(self, pod: Pod) -> None:
        """The pod ends, as a container runtime ends one: its processes, its namespace, its entries."""
        self.apps.pop(pod.name).stop(signal_number=9)
        self.topology.remove_pod(pod)
        self.cluster.delete(f"pod-{pod.name}")
        self.cluster.unlist(pod)
        self.wait(lambda: not self.workload(pod), f"nothing of {pod.name} to be left on its node", timeout_s=15)
        del self.pods[pod.name]


def echoes(connection: socket.socket) -> bool:
    """Whether the echo answers once more; a connection that is closed or silent does not."""
    try:
        connection.sendall(SECRET + b"\n")
        with connection.makefile("rb") as answer:
            return answer.readline().endswith(SECRET + b"\n")
    except OSError:
        return False


def closed_after(connection: socket.socket, *, timeout_s: float) -> float:
    """Seconds until the other side closes or resets a connection on which nothing is sent; raises TimeoutError."""
    begin = time.monotonic()
    connection.settimeout(timeout_s)
    try:
        left = connection.recv(1)
    except ConnectionError:
        left = b""
    assert not left
    return time.monotonic() - begin


def reset(connection: socket.socket) -> None:
    """Ends a connection by a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    connection.close()


def make(cluster: Cluster) -> Mesh:
    """Two nodes, four pods (see `demo.cluster.basic_mesh`), a host outside; everything runs and is enrolled."""
    pods = basic_mesh(cluster, enrolled=True)
    cluster.topology.add_host("outside")
    mesh = Mesh(cluster, pods)
    for name, pod in pods.items():
        mesh.apps[name] = cluster.start_app(pod)
        mesh.labels[name] = service_account_of(name)
    cluster.start_controller()
    for node in NODES:
        cluster.start_agent(node)
    for name, pod in pods.items():
        cluster.enrol(pod, service_account=service_account_of(name))
    return mesh


def service_account_of(name: str) -> str:
    """Of the pods of the basic mesh."""
    return name.partition("-")[0]


@contextmanager
def running(capture: str = "auto") -> Iterator[Mesh]:
    """A mesh that captures this way; nothing of it is left after the block, however it ends."""
    with Topology() as topology, Cluster(topology) as cluster:
        cluster.agent_options = (f"--capture={capture}",)
        yield make(cluster)


def _tail(file: Path, lines: int = 25) -> Sequence[str]:
    return file.read_text(errors="replace").splitlines()[-lines:]
