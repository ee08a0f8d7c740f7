"""A waypoint in a pod of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from demo import manifests
from demo.cluster import Cluster
from demo.driven import Driven, driven
from demo.manifests import Manifest

HBONE_PORT = 15008


class Waypoint(Driven):
    command = "waypoint"

    def objects(self, traffic: str = "service") -> list[Manifest]:
        """`traffic`: what it is for, services or workloads."""
        listener = {"name": "mesh", "port": HBONE_PORT, "protocol": "HBONE"}
        return [
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "metadata": {"name": self.name, "namespace": "default", "labels": {"istio.io/waypoint-for": traffic}},
                "spec": {"gatewayClassName": "nodemesh-waypoint", "listeners": [listener]},
            },
            manifests.service_account(self.name),
            manifests.pod(self.pod, service_account=self.name, app=self.name, labels=self.labels),
            manifests.service(self.name, app=self.name, vips=(self.vip,), spec={"ports": [{"name": "mesh", "port": HBONE_PORT}]}),
        ]


@contextmanager
def running(cluster: Cluster, *, name: str = "gate", vip: str = "10.96.0.9", node: str = "n1") -> Iterator[Waypoint]:
    """A waypoint in a pod of its own; nothing of it is left after the block."""
    with driven(Waypoint(cluster, cluster.topology.add_pod(node, name), name, vip)) as made:
        yield made
