"""Which Envoys there are: what a Gateway of the Gateway API asks for, and who runs it.

The Envoy of the Gateway `shop/entry` is `spiffe://<trust domain>/ns/shop/sa/entry`, as Istio names the account that it makes for it.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from control.envoy.world import World, waypoint_name
from control.kinds import Gateway, ObjectKey
from control.validation import values
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import GatewayAddress, NetworkAddress, service_key

WAYPOINT_CLASSES: Final = frozenset({"istio-waypoint", "nodemesh-waypoint"})
FOR_LABEL: Final = "istio.io/waypoint-for"


class ProxyKind(StrEnum):
    WAYPOINT = "waypoint"
    GATEWAY = "gateway"


class Traffic(StrEnum):
    """Which traffic a waypoint takes: that to services, to workloads, to both, or none."""

    SERVICE = "service"
    WORKLOAD = "workload"
    ALL = "all"
    NONE = "none"


class Proxy(Struct, frozen=True):
    """An Envoy, or several that are the same. `owner` is the Gateway that asks for it."""

    kind: ProxyKind
    namespace: str
    name: str
    owner: ObjectKey
    identity: WorkloadIdentity
    traffic: Traffic = Traffic.SERVICE
    labels: dict[str, str] = {}
    waypoint_names: tuple[str, ...] = ()
    """What it goes by where services and workloads say which waypoint is theirs: its service, its addresses."""

    @property
    def for_services(self) -> bool:
        return self.traffic in {Traffic.SERVICE, Traffic.ALL}

    @property
    def for_workloads(self) -> bool:
        return self.traffic in {Traffic.WORKLOAD, Traffic.ALL}


class ProxyKey(Struct, frozen=True, order=True):
    """Names a proxy."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def find_proxy(world: World, key: ProxyKey) -> Proxy | None:
    """The proxy of a Gateway; None where there is no such Gateway, or another controller's class."""
    gateway = world.find(Gateway, key.namespace, key.name)
    if gateway is None or gateway.spec.gateway_class_name not in WAYPOINT_CLASSES:
        return None
    return _waypoint(world, gateway)


def all_proxies(world: World) -> tuple[ProxyKey, ...]:
    """Every proxy there is to be."""
    keys = (ProxyKey(one.metadata.namespace, one.metadata.name) for one in world.objects(Gateway))
    return tuple(sorted(key for key in keys if world.ask(find_proxy, key) is not None))


def _waypoint(world: World, gateway: Gateway) -> Proxy:
    meta, settings = gateway.metadata, world.settings
    named = GatewayAddress(service=service_key(meta.namespace, settings.hostname(meta.name, meta.namespace)))
    addresses = (values.serving_address(one.value) for one in gateway.status.addresses if one.type == "IPAddress")
    placed = (GatewayAddress(address=NetworkAddress(address, settings.network)) for address in addresses)
    traffic = meta.labels.get(FOR_LABEL, Traffic.SERVICE)
    return Proxy(
        kind=ProxyKind.WAYPOINT,
        namespace=meta.namespace,
        name=meta.name,
        owner=gateway.key,
        identity=WorkloadIdentity(settings.trust_domain, meta.namespace, meta.name),
        traffic=Traffic(traffic) if traffic in set(Traffic) else Traffic.NONE,
        labels=meta.labels,
        waypoint_names=tuple(waypoint_name(one) for one in (named, *placed)),
    )
