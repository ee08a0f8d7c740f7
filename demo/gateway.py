"""A gateway in a pod of its own, whose certificates the controller has from its private directory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from demo import manifests
from demo.cluster import Cluster
from demo.driven import Driven, driven
from demo.manifests import Manifest


@dataclass
class Gateway(Driven):
    """`listeners`: as in the Gateway API; none where Istio's Gateways are to choose it, by the label `istio: <its name>`."""

    command = "gateway"
    listeners: Sequence[Mapping[str, Any]] = ()
    ports: Sequence[int] = ()
    """Of its Service; those of its listeners without any."""

    def objects(self) -> list[Manifest]:
        ports = self.ports or sorted({int(one["port"]) for one in self.listeners})
        labels = {**self.labels, "istio": self.name}
        return [
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "metadata": {"name": self.name, "namespace": "default", "labels": {"istio": self.name}},
                "spec": {"gatewayClassName": "nodemesh", "listeners": list(self.listeners)},
            },
            manifests.service_account(self.name),
            manifests.pod(self.pod, service_account=self.name, app=self.name, labels=labels),
            manifests.service(
                self.name, app=self.name, vips=(self.vip,), spec={"ports": [{"name": f"tcp-{port}", "port": port} for port in ports]}
            ),
        ]


@contextmanager
def running(
    cluster: Cluster,
    *listeners: Mapping[str, Any],
    ports: Sequence[int] = (),
    name: str = "edge",
    vip: str = "10.96.0.8",
    node: str = "n1",
) -> Iterator[Gateway]:
    """A gateway in a pod of its own; nothing of it is left after the block."""
    with driven(Gateway(cluster, cluster.topology.add_pod(node, name), name, vip, listeners=listeners, ports=ports)) as made:
        yield made
