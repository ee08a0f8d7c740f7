"""An Envoy in a pod of its own, run as its owner would: `meshctl waypoint run` or `meshctl gateway run`, configured by the controller."""

import contextlib
import http.client
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from demo.admin import ask
from demo.bench.envoy import ENVOY
from demo.cluster import BIN, Cluster, eventually
from demo.manifests import Manifest
from demo.shell import Process, run
from demo.topology import Pod
from meshapi.wire import PROXY_METRICS_PORT


@dataclass
class Driven(ABC):
    """That of the Gateway `name` of the namespace `default`; its pod is not captured."""

    command: ClassVar[str]
    """Of meshctl, that runs it."""
    cluster: Cluster
    pod: Pod
    name: str
    vip: str
    at: str = ""
    """Which of several of one Gateway."""
    process: Process | None = None

    @property
    def directory(self) -> Path:
        return self.cluster.directory / (self.at or self.name)

    @abstractmethod
    def objects(self) -> list[Manifest]:
        """What the mesh must know of it: the Gateway, and where it runs and as whom."""

    @property
    def labels(self) -> dict[str, str]:
        """Of its pod: whose it is, and that it takes tunnels itself."""
        return {"istio.io/dataplane-mode": "none", "gateway.networking.k8s.io/gateway-name": self.name}

    def start(self, *, join: bool = True, extra: Sequence[str] = (), wait: bool = True) -> None:
        """Runs it, joined by a one-time token the first time. With `wait` it has taken all that there is for it when this returns."""
        self.directory.mkdir(exist_ok=True)
        roots = self.directory / "roots.pem"
        roots.write_text(self.cluster.meshctl("root"))
        command = [
            str(BIN / "meshctl"),
            self.command,
            "run",
            f"--gateway=default/{self.name}",
            f"--controller={self.cluster.topology.hosts['controller'].ipv4}",
            f"--roots={roots}",
            f"--state={self.directory / 'state'}",
            f"--run-dir={self.directory / 'run'}",
            f"--envoy={ENVOY}",
            "--concurrency=1",
            "--drain=1",
            *extra,
        ]
        if join:
            eventually(lambda: self._known, f"the controller to know the Gateway {self.name}")
            command.append(f"--token={self.cluster.meshctl('token', 'create', f'--gateway=default/{self.name}').strip()}")
        self.process = Process(self.at or self.name, command, self.directory.with_suffix(".log"), self.pod.namespace).start()
        if wait:
            eventually(lambda: self.synced, f"the {self.command} {self.name} to have its configuration", timeout_s=30)

    def stop(self, *, signal_number: int | None = None) -> None:
        if self.process is None:
            return
        if signal_number is None:
            self.process.stop()
        else:
            self.process.stop(signal_number=signal_number)

    @property
    def _known(self) -> bool:
        with contextlib.suppress(RuntimeError):
            ask(self.cluster.admin_socket, f"/proxies/config?proxy=default/{self.name}&kind=listeners")
            return True
        return False

    def status(self) -> dict[str, Any]:
        """What `meshctl proxy-status` says of it; empty if it is not connected."""
        found = ask(self.cluster.admin_socket, "/proxies")
        return next((dict(one) for one in found if one["proxy"] == f"default/{self.name}"), {})

    @property
    def synced(self) -> bool:
        """Whether it has taken all that there is for it; of endpoints there may be none."""
        types = {one["type_url"].rpartition(".")[2]: one for one in self.status().get("types", [])}
        return {"Cluster", "Listener", "RouteConfiguration"} <= types.keys() and not any(one["pending"] for one in types.values())

    def admin(self, path: str) -> str:
        """What Envoy's own admin interface answers."""
        connection = http.client.HTTPConnection("envoy", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(str(self.directory / "run/admin.sock"))
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def stat(self, name: str) -> int:
        """A counter of Envoy."""
        return int(self.admin(f"/stats?filter=^{name}$").rpartition(": ")[2] or 0)

    def metric(self, name: str) -> list[dict[str, str]]:
        """The label sets of a metric that is not 0."""
        text = run(["curl", "-s", f"http://127.0.0.1:{PROXY_METRICS_PORT}/stats/prometheus"], namespace=self.pod.namespace)
        samples = (one for family in text_string_to_metric_families(text) for one in family.samples)
        return [one.labels for one in samples if one.name == name and one.value]


D = TypeVar("D", bound=Driven)


@contextmanager
def driven(made: D, *, extra: Sequence[str] = ()) -> Iterator[D]:
    """Runs it, with `extra` options; nothing of it is left after the block."""
    try:
        made.cluster.apply(made.name, made.objects())
        made.start(extra=extra)
        yield made
    finally:
        made.stop()
        made.cluster.delete(made.name)
        made.cluster.topology.remove_pod(made.pod)
