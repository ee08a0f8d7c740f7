"""How clusters, their endpoints, routes and filter chains of waypoints are named: as Istio names them, so that dashboards find them."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from meshapi.workload import ServiceKey

TERMINATE: Final = "connect_terminate"
INTERNAL: Final = "main_internal"
SNIFFING: Final = "main_internal_sniffing"
"""The same for what does not say what it carries: it waits for the first bytes."""
ORIGINATE: Final = "connect_originate"
DIRECT: Final = "encap"
"""The cluster to whatever workload was dialled, by tunnel."""
DIRECT_PLAIN: Final = "direct-plaintext"
"""The same without one."""
DIRECT_ORIGINATE: Final = "connect_originate_direct"


class Layer(StrEnum):
    """What a cluster's connections carry, as the waypoint sees it."""

    HTTP = "http"
    TCP = "tcp"


class ClusterRef(Struct, frozen=True, order=True):
    """A cluster of a service's endpoints: one port, and one subset of a DestinationRule or all (empty)."""

    service: ServiceKey
    port: int
    layer: Layer = Layer.HTTP
    subset: str = ""

    @property
    def hostname(self) -> str:
        return self.service.partition("/")[2]

    @property
    def name(self) -> str:
        """`inbound-vip|80|http|reviews.shop.svc.cluster.local`, with a subset `inbound-vip|80|http/v2|...`."""
        part = f"{self.layer}/{self.subset}" if self.subset else self.layer
        return f"inbound-vip|{self.port}|{part}|{self.hostname}"


def chain_name(service: ServiceKey, port: int, layer: Layer) -> str:
    """A filter chain of one service's port, and the routes of its HTTP."""
    return ClusterRef(service, port, layer).name
