"""Where a piece of configuration applies: at one proxy, for one port of one service."""

from msgspec import Struct

from control.envoy.proxies import ProxyKey
from meshapi.workload import ServiceKey


class Place(Struct, frozen=True, order=True):
    """The traffic to one port of a service through one proxy. Without a service: to workloads that were dialled themselves."""

    proxy: ProxyKey
    service: ServiceKey | None = None
    port: int = 0
