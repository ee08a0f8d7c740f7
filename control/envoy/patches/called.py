"""Services that patches call by the names of Istio's clusters: `outbound|8081||limits.shop.svc.cluster.local` is a cluster here, too.

A filter that asks a server names its cluster; without one it would ask nobody. Whatever a rule for routing may name, a patch may.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.message import Message as AnyMessage
from msgspec import Struct

from control.envoy.built import CLUSTER, Built, Recipe, built
from control.envoy.clusters import service_cluster
from control.envoy.messages import Message, message_class
from control.envoy.naming import ClusterRef, Layer
from control.envoy.patches.allowed import PatchError, opened
from control.envoy.patches.holding import held_by, patches_in
from control.envoy.proxies import ProxyKey
from control.envoy.waypoint import cluster_recipes
from control.envoy.world import World
from control.kinds import EnvoyFilter, ObjectKey

_NAME: Final = re.compile(r"outbound\|([1-9][0-9]{0,4})\|([^|]{0,253})\|([a-z0-9.-]{1,253})\Z", re.ASCII)
_ANY: Final = "google.protobuf.Any"
_CLUSTER_MESSAGE: Final = "envoy.config.cluster.v3.Cluster"


class Called(Struct, frozen=True, order=True):
    """A cluster that a patch names, and what that is."""

    name: str
    port: int
    subset: str
    host: str


def called_clusters(world: World, proxy: ProxyKey) -> tuple[Recipe, ...]:
    """The clusters that patches at a proxy call so, with their endpoints; of services that are there."""
    found: list[Recipe] = []
    names = {called for key in world.ask(held_by, EnvoyFilter, proxy) for called in world.ask(names_in, key)}
    for called in sorted(names):
        ref = _service(world, called)
        if ref is not None:
            found.append(Recipe(CLUSTER, called.name, called_cluster, (proxy, ref, called.name)))
            found += [one for one in world.ask(cluster_recipes, proxy, ref) if one.type_url != CLUSTER]
    return tuple(found)


def called_cluster(world: World, proxy: ProxyKey, ref: ClusterRef, name: str) -> Built | None:
    """The cluster of a service's port by another name."""
    own = world.ask(service_cluster, proxy, ref)
    if own is None:
        return None
    message = message_class(_CLUSTER_MESSAGE).FromString(own.resource.body)
    message.name = name
    return built(name, message, own.sources, own.problems)


def names_in(world: World, key: ObjectKey) -> tuple[Called, ...]:
    """The names in an object's patches."""
    messages = [bound.patch.message for bound in world.ask(patches_in, key) if bound.patch.message is not None]
    found = (_NAME.match(text) for message in messages for text in _texts(message))
    return tuple(sorted({Called(one.group(), int(one.group(1)), one.group(2), one.group(3)) for one in found if one is not None}))


def _service(world: World, called: Called) -> ClusterRef | None:
    for key in world.services_named(called.host):
        service = world.service(key)
        port = service.port(called.port) if service is not None else None
        if port is not None:
            return ClusterRef(key, called.port, Layer.HTTP if port.http or port.sniffed else Layer.TCP, called.subset)
    return None


def _texts(message: Message) -> Iterator[str]:
    """Every text in a message, also inside of what it holds packed."""
    if message.DESCRIPTOR.full_name == _ANY:
        try:
            yield from _texts(opened(message))
        except PatchError:
            return
    for _, value in message.ListFields():
        for one in _each(value):
            if isinstance(one, str):
                yield one
            elif isinstance(one, AnyMessage):
                yield from _texts(one)


def _each(value: Any) -> Iterator[Any]:
    """The items of a field: of a map its values, of a list its entries."""
    if isinstance(value, str | bytes | int | float | AnyMessage):
        yield value
    elif hasattr(value, "values"):
        yield from value.values()
    else:
        yield from value
