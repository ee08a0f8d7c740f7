"""A mesh on a topology: the real controller, an agent with its proxy on each node, applications in pods, manifests that change."""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from demo import cgroups, manifests
from demo.admin import ask
from demo.manifests import Manifest
from demo.shell import CommandError, Process, run, with_resolver
from demo.topology import Pod, Topology

T = TypeVar("T")
BIN = Path(sys.executable).parent
TRUST_DOMAIN = "cluster.local"
API_VIPS = ("10.96.0.10", "fd96::10")


class NotInTime(AssertionError):
    """Something that was waited for did not come."""


def eventually(check: Callable[[], T], what: str, *, timeout_s: float = 10.0, interval_s: float = 0.02) -> T:
    """Calls `check` until it returns something true and returns that; raises NotInTime with what was waited for."""
    deadline = time.monotonic() + timeout_s
    while True:
        if result := check():
            return result
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {timeout_s:g} s")
        time.sleep(interval_s)


class Cluster:
    """Use as a context manager: everything it started ends with it."""

    def __init__(self, topology: Topology, directory: Path | None = None, *, patience: float = 1.0) -> None:
        """`patience`: how many times as long as on a usual machine everything may take."""
        self.topology = topology
        self.patience = patience
        self.directory = directory or Path(tempfile.mkdtemp(prefix="nodemesh-"))
        self.config = self.directory / "config"
        self.config.mkdir(parents=True)
        self.secrets = self.directory / "secrets"
        """Certificates of gateways, which only the controller reads."""
        self.secrets.mkdir(mode=0o700)
        self.controller: Process | None = None
        self.agents: dict[str, Process] = {}
        self.agent_options: tuple[str, ...] = ()
        """Of `nodeagent run`, for every agent."""
        self._apps: list[Process] = []
        self._enrolled: dict[str, dict[str, Manifest]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- configuration

    def apply(self, name: str, documents: Sequence[Manifest]) -> None:
        """Writes (or replaces) one file of manifests, atomically."""
        self.write(name, yaml.safe_dump_all(documents, sort_keys=False))

    def write(self, name: str, text: str) -> None:
        """The same of manifests as somebody wrote them."""
        draft = self.config / f".{name}.draft"
        draft.write_text(text)
        draft.rename(self.config / f"{name}.yaml")

    def delete(self, name: str) -> None:
        """Removes a file of manifests."""
        (self.config / f"{name}.yaml").unlink()

    def write_secret(self, name: str, content: Mapping[str, bytes], namespace: str = "default") -> None:
        """Makes or replaces the Secret of this name: `tls.crt`, `tls.key`, `ca.crt`, whichever it holds."""
        place = self.secrets / namespace / name
        place.mkdir(parents=True, exist_ok=True)
        for field, value in content.items():
            draft = place / f".{field}.draft"
            draft.write_bytes(value)
            draft.rename(place / field)

    # ---- the mesh's own processes

    def start_controller(self) -> None:
        """`meshctl serve` on a host of its own; again after it ended, with the state it had."""
        host = self.topology.hosts.get("controller") or self.topology.add_host("controller")
        command = [
            str(BIN / "meshctl"),
            "serve",
            f"--config={self.config}",
            f"--state={self.directory / 'controller'}",
            f"--secrets={self.secrets}",
            f"--hostname={host.ipv4}",
            f"--admin-socket={self.admin_socket}",
        ]
        self.controller = Process("controller", command, self.directory / "controller.log", host.namespace).start()
        self.wait_for(self.controller, self._controller_serves, "the controller to serve")

    @property
    def admin_socket(self) -> Path:
        return self.directory / "controller.sock"

    def meshctl(self, *arguments: str) -> str:
        """Runs the operator's command against the controller; raises CommandError if it fails."""
        return run([str(BIN / "meshctl"), *arguments, f"--admin-socket={self.admin_socket}"], timeout_s=30 * self.patience)

    def meshctl_answer(self, *arguments: str) -> str:
        """The same where exit code 1 is an answer: something that was refused is shown."""
        return run([str(BIN / "meshctl"), *arguments, f"--admin-socket={self.admin_socket}"], answers=(0, 1))

    def meshctl_ok(self, *arguments: str) -> bool:
        """Whether the command succeeds."""
        with contextlib.suppress(CommandError):
            self.meshctl(*arguments)
            return True
        return False

    def _controller_serves(self) -> bool:
        with contextlib.suppress(OSError):
            ask(self.admin_socket, "/agents")
            return True
        return False

    def start_agent(self, node: str, *extra: str, join: bool = True, under: Sequence[str] = ()) -> None:
        """`nodeagent run` on a node, joined by a one-time token the first time; `under` is the program that starts it, if any."""
        directory = self.node_directory(node)
        (directory / "run").mkdir(parents=True, exist_ok=True)
        if join:
            self._private(directory / "token", self.meshctl("token", "create", "--node", node))
            self._private(directory / "root.pem", self.meshctl("root"))
        self._write_runtime(node)
        controller = self.topology.hosts["controller"]
        command = [
            *under,
            str(BIN / "nodeagent"),
            f"--run-dir={directory / 'run'}",
            "run",
            f"--node={node}",
            f"--controller={controller.ipv4}",
            f"--root-ca={directory / 'root.pem'}",
            f"--join-token={directory / 'token'}",
            f"--runtime=static:{directory / 'workloads.yaml'}",
            f"--state-dir={directory / 'state'}",
            *self.agent_options,
            *extra,
        ]
        namespace, cgroup = self.topology.hosts[node].namespace, cgroups.make(f"{self.topology.prefix}-{node}")
        self.agents[node] = Process(f"agent {node}", command, directory / "agent.log", namespace, cgroup=cgroup).start()
        self.wait_for(self.agents[node], lambda: self.ready(node), f"the agent of {node} to be ready")

    def ready(self, node: str) -> bool:
        """Whether the agent of a node says that it is ready."""
        with contextlib.suppress(OSError):
            return bool(self.admin(node, "/status")["ready"])
        return False

    def admin(self, node: str, path: str) -> Any:
        """What the agent of a node answers on its admin socket; raises OSError if there is none."""
        return ask(self.node_directory(node) / "run" / "admin.sock", path)

    def nodeagent(self, node: str, *arguments: str) -> str:
        """Runs the node's command against its agent; raises CommandError if it fails. Exit code 1 is an answer: a problem, a denial."""
        command = [str(BIN / "nodeagent"), f"--run-dir={self.node_directory(node) / 'run'}", *arguments]
        return run(command, namespace=self.topology.hosts[node].namespace, timeout_s=60 * self.patience, answers=(0, 1))

    def node_directory(self, node: str) -> Path:
        return self.directory / node

    def proxy_pid(self, node: str) -> int | None:
        """The process id of a node's proxy, None if none runs."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((self.node_directory(node) / "run" / "proxy.lock").read_text())
            if str(Path(f"/proc/{pid}/exe").readlink()).split(" ")[0].endswith("nodemesh-proxy"):
                return pid
        return None

    # ---- pods

    def start_app(self, pod: Pod) -> Process:
        """The demo's service in a pod; it listens when this returns."""
        command = [sys.executable, "-m", "demo.apps.server", "--name", pod.name]
        log = self.directory / f"{pod.name}.log"
        log.unlink(missing_ok=True)
        app = Process(pod.name, command, log, pod.namespace, {"PYTHONPATH": str(Path(__file__).parent.parent)}).start()
        self._apps.append(app)
        self.wait_for(app, lambda: log.exists() and "listens" in log.read_text(), f"{pod.name} to listen")
        return app

    def enrol(self, pod: Pod, *, service_account: str, namespace: str = "default", cgroup: str = "") -> None:
        """Adds a pod to its node's static list and waits until it is captured and has its identity."""
        self.list_pod(pod, service_account=service_account, namespace=namespace, cgroup=cgroup)
        self._eventually(lambda: self.enrolled(pod), f"{pod.name} to be captured with an identity")

    def list_pod(self, pod: Pod, *, service_account: str, namespace: str = "default", **fields: Any) -> None:
        """Adds a pod to its node's static list, or changes what stands there. `fields` are others of the list's: `annotations`, say."""
        self._enrolled.setdefault(pod.node, {})[pod.name] = {
            "name": pod.name,
            "namespace": namespace,
            "service_account": service_account,
            "netns": pod.netns_path,
            **fields,
        }
        self._write_runtime(pod.node)

    def list_unit(self, node: str, name: str, *, cgroup: str, **fields: Any) -> None:
        """Adds a process group of a node to its static list, under the service account of its name. `fields`: others, `ports` say."""
        entry = {"name": name, "namespace": "default", "service_account": name, "cgroup": cgroup, **fields}
        self._enrolled.setdefault(node, {})[name] = entry
        self._write_runtime(node)

    def list_host(self, node: str, name: str, *, service_account: str) -> None:
        """Adds the node itself, as one workload, to its static list."""
        entry = {"name": name, "namespace": "default", "service_account": service_account, "host": True}
        self._enrolled.setdefault(node, {})[name] = entry
        self._write_runtime(node)

    def unlist_unit(self, node: str, name: str) -> None:
        """Takes it, or the node itself, off the list."""
        self._enrolled.get(node, {}).pop(name, None)
        self._write_runtime(node)

    def unenrol(self, pod: Pod) -> None:
        """Takes a pod off its node's list and waits until it is no longer captured; what is open may still be drained then."""
        self.unlist(pod)
        self._eventually(
            lambda: self._workloads(pod.node).get(pod.name, {}).get("state", "leaving") == "leaving", f"{pod.name} to be released"
        )

    def unlist(self, pod: Pod) -> None:
        """Takes a pod off its node's list, if it stands there."""
        self._enrolled.get(pod.node, {}).pop(pod.name, None)
        self._write_runtime(pod.node)

    def enrolled(self, pod: Pod) -> bool:
        """Whether the agent says that the pod is captured and has an identity."""
        return bool(self._workloads(pod.node).get(pod.name, {}).get("ready"))

    def _workloads(self, node: str) -> dict[str, Any]:
        return {entry["name"]: entry for entry in self.admin(node, "/workloads")}

    def _write_runtime(self, node: str) -> None:
        file = self.node_directory(node) / "workloads.yaml"
        draft = file.with_suffix(".draft")
        draft.write_text(yaml.safe_dump(list(self._enrolled.get(node, {}).values())))
        draft.rename(file)

    # ---- traffic

    def get(
        self,
        namespace: str,
        host: object,
        port: int,
        *,
        count: int = 1,
        timeout_s: float = 5.0,
        path: str = "/",
        resolver: Path | None = None,
    ) -> list[Any]:
        """HTTP requests from a namespace, each on its own connection: what the client prints. `resolver`: its /etc/resolv.conf."""
        command = [*_client(timeout_s), "get", str(host), str(port), f"--count={count}", f"--path={path}"]
        command = ["env", f"PYTHONPATH={Path(__file__).parent.parent}", *command]
        line = command if resolver is None else with_resolver(resolver, command)
        output = run(line, namespace=namespace, timeout_s=30 + count * timeout_s)
        return [json.loads(line) for line in output.splitlines()]

    def keep_calling(self, namespace: str, host: object, port: int, *, name: str) -> Callable[[], list[Any]]:
        """HTTP requests every few milliseconds in the background; returns what gives the answers so far, refusals included."""
        command = [*_client(1.0), "get", str(host), str(port), "--count=10000", "--pause=0.003"]
        log = self.directory / f"calls-{name}.log"
        process = Process(name, command, log, namespace, {"PYTHONPATH": str(Path(__file__).parent.parent)}).start()
        self._apps.append(process)
        return lambda: [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def hold(self, namespace: str, host: object, port: int, *, name: str, line: str = "are you there", seconds: float = 30.0) -> "Held":
        """A TCP connection from a namespace that is kept busy in the background, open when this returns."""
        command = [*_client(5.0), "hold", str(host), str(port), f"--line={line}", f"--seconds={seconds}"]
        log = self.directory / f"hold-{name}.log"
        log.unlink(missing_ok=True)
        process = Process(name, command, log, namespace, {"PYTHONPATH": str(Path(__file__).parent.parent)}).start()
        self._apps.append(process)
        held = Held(process)
        eventually(held.events, f"the connection of {name} to open")
        return held

    # ---- the end

    def close(self) -> None:
        """Ends every process that this cluster started, proxies included, and removes its directory."""
        for app in self._apps:
            app.stop(signal_number=signal.SIGKILL)
        for node, agent in self.agents.items():
            with contextlib.suppress(CommandError):
                if agent.alive:
                    self.nodeagent(node, "down", "--drain", "0")
            agent.stop()
            if pid := self.proxy_pid(node):
                os.kill(pid, signal.SIGKILL)
            if agent.cgroup is not None:
                cgroups.remove(agent.cgroup)
        if self.controller is not None:
            self.controller.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def _private(file: Path, text: str) -> None:
        file.touch(mode=0o600)
        file.write_text(text)

    def _eventually(self, check: Callable[[], T], what: str, *, timeout_s: float = 10.0) -> T:
        return eventually(check, what, timeout_s=timeout_s * self.patience)

    def wait_for(self, process: Process, check: Callable[[], bool], what: str) -> None:
        """Until `check` says yes; raises CommandError if the process ends before, NotInTime with its last words."""

        def alive_and_done() -> bool:
            if not process.alive:
                raise CommandError(f"{process.name} ended:\n{process.tail()}")
            return check()

        try:
            self._eventually(alive_and_done, what, timeout_s=20)
        except NotInTime as error:
            raise NotInTime(f"{error}\n{process.tail()}") from None


def _client(timeout_s: float) -> list[str]:
    return [sys.executable, "-m", "demo.apps.client", f"--timeout={timeout_s}"]


class Held:
    """A connection that is kept busy."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def events(self) -> list[Any]:
        """What the client has said so far: `open`, later `end` (Unix times)."""
        return [json.loads(line) for line in self._process.log.read_text().splitlines()] if self._process.log.exists() else []

    @property
    def open(self) -> bool:
        return [event["event"] for event in self.events()] == ["open"]

    def end(self, timeout_s: float = 5.0) -> Any:
        """Waits for the connection's end and returns that event."""
        return eventually(
            lambda: next((e for e in self.events() if e["event"] == "end"), None), "the connection to end", timeout_s=timeout_s
        )

    def stop(self) -> None:
        """Ends the client."""
        self._process.stop(signal_number=signal.SIGKILL)


def basic_mesh(cluster: Cluster, *, enrolled: bool) -> dict[str, Pod]:
    """Two nodes: `shop` and one `api` on the first, two `api` on the second; a service `api` with IPv4 and IPv6 VIPs."""
    topology = cluster.topology
    for node in ("n1", "n2"):
        topology.add_node(node)
    pods = {name: topology.add_pod(node, name) for node, name in (("n1", "shop"), ("n1", "api-1"), ("n2", "api-2"), ("n2", "api-3"))}
    documents = [
        manifests.node("n1", zone="a"),
        manifests.node("n2", zone="b"),
        manifests.service_account("shop"),
        manifests.service_account("api"),
    ]
    documents += [
        manifests.pod(pod, service_account="shop" if name == "shop" else "api", app="shop" if name == "shop" else "api")
        for name, pod in pods.items()
    ]
    documents += [manifests.service("api", app="api", vips=API_VIPS)]
    cluster.apply("namespaces", [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=enrolled)])
    cluster.apply("mesh", documents)
    return pods
