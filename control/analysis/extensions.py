"""Configuration of Envoy's own that objects bring: what holds for a service, and what holds nowhere, or by chance."""

from collections.abc import Iterator
from typing import Final

from control.analysis.message import Level, Message, about
from control.envoy.patches.holding import held_by, names_place, patches_at, patches_in
from control.envoy.patches.reading import ReadPatch
from control.envoy.patches.spot import spot_at
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey, all_proxies
from control.envoy.world import World
from control.kinds import EnvoyFilter, ObjectKey, WasmPlugin
from control.kinds.envoy_filter import ApplyTo, Operation

_RELATIVE: Final = frozenset((Operation.INSERT_BEFORE, Operation.INSERT_AFTER, Operation.REPLACE, Operation.MERGE, Operation.REMOVE))
_ALWAYS: Final = frozenset(
    ("envoy.filters.http.cors", "envoy.filters.http.fault", "envoy.filters.http.grpc_stats", "envoy.filters.http.router")
)
"""HTTP filters that are at every place."""


def in_words(world: World, places: list[Place]) -> Iterator[str]:
    """The objects that hold at some places, each with what it does there, in the order in which they apply."""
    found: dict[str, dict[str, None]] = {}
    for place in places:
        spot = spot_at(world, place)
        if spot is None:
            continue
        for bound in patches_at(world, spot, *ApplyTo):
            found.setdefault(f"{bound.object}", {})[f"{bound.patch.operation} {bound.patch.apply_to}"] = None
        for item in _plugins(world, place.proxy):
            if names_place(world, item, spot):
                found.setdefault(f"{item.key}", {})[item.spec.phase] = None
    yield from (f"{name}: {', '.join(what)}" for name, what in found.items())


def unheld(world: World) -> Iterator[Message]:
    """Objects that are for no proxy there is."""
    held: set[ObjectKey] = set()
    for proxy in world.ask(all_proxies):
        held.update(world.ask(held_by, EnvoyFilter, proxy))
        held.update(world.ask(held_by, WasmPlugin, proxy))
    for item in (*world.objects(EnvoyFilter), *world.objects(WasmPlugin)):
        if item.key not in held:
            hint = "it holds at proxies of its own namespace; from the root namespace at all: see its selector or targetRefs"
            yield about(item.key, "IST0127", Level.WARNING, "it is for no waypoint and no gateway", hint)


def by_chance(world: World) -> Iterator[Message]:
    """Patches beside what another object brings: which of them comes first is a matter of their ages."""
    for item in world.objects(EnvoyFilter):
        for bound in world.ask(patches_in, item.key):
            if not item.spec.priority and _is_relative(bound.patch):
                what = (
                    f"{bound.name}: stands beside {bound.patch.sub_filter[:100]}, which is there only if another object has added it before"
                )
                yield about(item.key, "IST0151", Level.INFO, what, "say spec.priority, or stand beside a filter of the mesh")


def _is_relative(patch: ReadPatch) -> bool:
    name = patch.sub_filter
    return patch.apply_to is ApplyTo.HTTP_FILTER and patch.operation in _RELATIVE and bool(name) and name not in _ALWAYS


def _plugins(world: World, proxy: ProxyKey) -> list[WasmPlugin]:
    found = (world.find(WasmPlugin, key.namespace, key.name) for key in world.ask(held_by, WasmPlugin, proxy))
    return [one for one in found if one is not None]
