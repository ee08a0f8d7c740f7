"""Which Envoys there are: what a Gateway of the Gateway API asks for, and workloads that Istio's Gateways choose by their labels.

The Envoy of the Gateway `shop/entry` is `spiffe://<trust domain>/ns/shop/sa/entry`, as Istio names the account that it makes for it. Where
there is no such Gateway, workloads of that account are the gateway, if they say that no agent captures them, and a Gateway of Istio's has a
selector for them.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from control.envoy.world import World
from control.kinds import Gateway, IstioGateway, ObjectKey
from control.model.labels import Labels, selects
from meshapi import wire
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import GatewayAddress

UNCAPTURED: Final = (wire.LABEL_DATAPLANE_MODE, "none")
"""The label of workloads that take tunnels by themselves, or none."""


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
        return world.ask(_labelled, key)
    if gateway.spec.gateway_class_name in wire.WAYPOINT_CLASSES:
        return _waypoint(world, gateway)
    return _gateway(world, gateway) if gateway.spec.gateway_class_name in wire.GATEWAY_CLASSES else None


def all_proxies(world: World) -> tuple[ProxyKey, ...]:
    """Every proxy there is to be."""
    keys = {ProxyKey(one.metadata.namespace, one.metadata.name) for one in world.objects(Gateway)}
    keys |= {ProxyKey(one.workload.namespace, one.workload.service_account) for one in world.labelled(UNCAPTURED)}
    return tuple(sorted(key for key in keys if world.ask(find_proxy, key) is not None))


def chosen_by(world: World, namespace: str, labels: Labels) -> tuple[IstioGateway, ...]:
    """Istio's Gateways that hold for a gateway of this namespace with these labels, oldest first."""
    near = (one for one in world.objects(IstioGateway) if one.metadata.namespace == namespace or not world.settings.scope_gateways)
    return tuple(one for one in near if selects(one.spec.selector, labels))


def _labelled(world: World, key: ProxyKey) -> Proxy | None:
    """Workloads of an account; by the labels that all of them have."""
    uncaptured = (one for one in world.labelled(UNCAPTURED) if one.workload.namespace == key.namespace)
    found = [one.labels.items() for one in uncaptured if one.workload.service_account == key.name]
    labels = dict(set(found[0]).intersection(*found[1:])) if found else {}
    # One that chooses whatever gateway there is makes none.
    owner = next((one.key for one in chosen_by(world, key.namespace, labels) if one.spec.selector), None)
    if owner is None:
        return None
    identity = WorkloadIdentity(world.settings.trust_domain, key.namespace, key.name)
    return Proxy(ProxyKind.GATEWAY, key.namespace, key.name, owner, identity, labels)


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
