"""Which Envoys there are: what a Gateway of the Gateway API asks for, and who runs it.

The Envoy of the Gateway `shop/entry` is `spiffe://<trust domain>/ns/shop/sa/entry`, as Istio names the account that it makes for it.
"""

from enum import StrEnum

from msgspec import Struct

from control.envoy.world import World
from control.kinds import Gateway, ObjectKey
from meshapi import wire
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import GatewayAddress


class ProxyKind(StrEnum):
    WAYPOINT = "waypoint"
    GATEWAY = "gateway"


class Proxy(Struct, frozen=True):
    """An Envoy, or several that are the same. `owner` is the Gateway that asks for it."""

    kind: ProxyKind
    namespace: str
    name: str
    owner: ObjectKey
    identity: WorkloadIdentity
    labels: dict[str, str] = {}
    address: GatewayAddress | None = None
    """Of a waypoint: where the services and workloads that are bound to it say that their waypoint is."""


class ProxyKey(Struct, frozen=True, order=True):
    """Names a proxy."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def find_proxy(world: World, key: ProxyKey) -> Proxy | None:
    """The proxy of a Gateway; None where there is no such Gateway, or another controller's class."""
    gateway = world.find(Gateway, key.namespace, key.name)
    if gateway is None:
        return None
    if gateway.spec.gateway_class_name in wire.WAYPOINT_CLASSES:
        return _waypoint(world, gateway)
    return _gateway(world, gateway) if gateway.spec.gateway_class_name in wire.GATEWAY_CLASSES else None


def all_proxies(world: World) -> tuple[ProxyKey, ...]:
    """Every proxy there is to be."""
    keys = (ProxyKey(one.metadata.namespace, one.metadata.name) for one in world.objects(Gateway))
    return tuple(sorted(key for key in keys if world.ask(find_proxy, key) is not None))


def _waypoint(world: World, gateway: Gateway) -> Proxy:
    meta = gateway.metadata
    waypoint = world.waypoint(gateway.key)
    return Proxy(
        kind=ProxyKind.WAYPOINT,
        namespace=meta.namespace,
        name=meta.name,
        owner=gateway.key,
        identity=WorkloadIdentity(world.settings.trust_domain, meta.namespace, meta.name),
        labels=meta.labels,
        address=waypoint.address if waypoint is not None else None,
    )


def _gateway(world: World, gateway: Gateway) -> Proxy:
    meta = gateway.metadata
    return Proxy(
        kind=ProxyKind.GATEWAY,
        namespace=meta.namespace,
        name=meta.name,
        owner=gateway.key,
        identity=WorkloadIdentity(world.settings.trust_domain, meta.namespace, meta.name),
        # As Istio labels the pods that it makes for a Gateway: by these Istio's Gateways and policies choose them.
        labels={**meta.labels, **gateway.spec.infrastructure.labels, wire.LABEL_GATEWAY_NAME: meta.name},
    )
