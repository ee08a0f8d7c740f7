"""Which patches hold at a spot, in the order in which they apply.

Those of the root namespace hold everywhere, those of a proxy's namespace at that proxy, for traffic of the same namespace: nobody's patch
reaches what is another's, and nobody's script runs in another's proxy.
"""

from typing import TypeVar

from msgspec import Struct

from control.envoy.patches.reading import ReadPatch, read_patch
from control.envoy.patches.spot import Spot
from control.envoy.proxies import Proxy, ProxyKey, ProxyKind, find_proxy
from control.envoy.world import World
from control.kinds import EnvoyFilter, Gateway, ObjectKey, WasmPlugin
from control.kinds.envoy_filter import ApplyTo, ConfigPatch, PatchContext
from control.model.labels import selects
from control.model.waypoint_guards import ClassTarget, target_of
from meshapi import wire

P = TypeVar("P", EnvoyFilter, WasmPlugin)
_CONTEXTS = {ProxyKind.WAYPOINT: PatchContext.WAYPOINT, ProxyKind.GATEWAY: PatchContext.GATEWAY}


class Bound(Struct, frozen=True):
    """A patch of an object that holds."""

    object: ObjectKey
    number: int
    """Which of the object's patches, from 0."""
    patch: ReadPatch

    @property
    def name(self) -> str:
        return f"configPatches[{self.number}]"


def held_by(world: World, kind: type[P], proxy: ProxyKey) -> tuple[ObjectKey, ...]:
    """The objects of a kind that hold at a proxy, whatever they are for there: by priority, the root namespace's first, oldest first."""
    found = world.ask(find_proxy, proxy)
    if found is None:
        return ()
    root = world.settings.root_namespace
    namespaces = {root, proxy.namespace}
    held = [one for one in world.objects(kind) if one.metadata.namespace in namespaces and _is_for(world, one, found)]
    # Within a namespace `objects` has them by age.
    return tuple(one.key for one in sorted(held, key=lambda one: (one.spec.priority, one.metadata.namespace != root)))


def names_place(world: World, item: EnvoyFilter | WasmPlugin, spot: Spot) -> bool:
    """Whether an object that could hold at a spot's proxy is for the traffic there, whose owner may be another."""
    if item.metadata.namespace not in {spot.owner, world.settings.root_namespace}:
        return False
    if not item.targets:
        return True
    found = {target_of(one, item.metadata.namespace, world.settings.root_namespace) for one in item.targets}
    return spot.proxy.owner in found or spot.target in found - {None} or any(isinstance(one, ClassTarget) for one in found)


def patches_at(world: World, spot: Spot, *kinds: ApplyTo) -> tuple[Bound, ...]:
    """The patches of some kinds that hold at a spot; what they match is still to be asked."""
    found: list[Bound] = []
    for key in world.ask(held_by, EnvoyFilter, ProxyKey(spot.proxy.namespace, spot.proxy.name)):
        item = world.find(EnvoyFilter, key.namespace, key.name)
        if item is not None and names_place(world, item, spot):
            found += [one for one in world.ask(patches_in, key) if one.patch.apply_to in kinds and _in_context(one.patch, spot.proxy)]
    return tuple(found)


def patches_for(world: World, proxy: ProxyKey) -> tuple[Bound, ...]:
    """The patches that hold at a proxy for any traffic there."""
    found = world.ask(find_proxy, proxy)
    if found is None:
        return ()
    bound = (one for key in world.ask(held_by, EnvoyFilter, proxy) for one in world.ask(patches_in, key))
    return tuple(one for one in bound if _in_context(one.patch, found))


def patches_in(world: World, key: ObjectKey) -> tuple[Bound, ...]:
    """An object's patches, read."""
    item = world.find(EnvoyFilter, key.namespace, key.name)
    patches: tuple[ConfigPatch, ...] = item.spec.config_patches if item is not None else ()
    return tuple(Bound(key, number, read_patch(patch)) for number, patch in enumerate(patches))


def _is_for(world: World, item: EnvoyFilter | WasmPlugin, proxy: Proxy) -> bool:
    """Whether an object could hold at a proxy: by its labels, or because it names it, its class, or a service."""
    if item.labels is not None:
        return selects(item.labels, {**proxy.labels, wire.LABEL_GATEWAY_NAME: proxy.name})
    if not item.targets:
        return True
    gateway = world.find(Gateway, proxy.namespace, proxy.name)
    for reference in item.targets:
        target = target_of(reference, item.metadata.namespace, world.settings.root_namespace)
        if isinstance(target, ClassTarget):
            if gateway is not None and target.name == gateway.spec.gateway_class_name:
                return True
        elif (target is not None and target in {proxy.owner}) or reference.kind in {"Service", "ServiceEntry"}:
            return True
    return False


def _in_context(patch: ReadPatch, proxy: Proxy) -> bool:
    match = patch.match
    if match.context not in {PatchContext.ANY, _CONTEXTS[proxy.kind]} or match.proxy.proxy_version:
        return False
    # What proxies say of themselves is no ground to decide on, but for whose they are: the certificate says the same.
    known = {"NAMESPACE": proxy.namespace, "SERVICE_ACCOUNT": proxy.identity.service_account, "NAME": proxy.name}
    return all(known.get(name) == value for name, value in match.proxy.metadata.items())
