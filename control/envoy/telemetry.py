"""Which Telemetry holds at a place, of several that say something of the same: from the widest to the narrowest.

First the root namespace's, then those of the proxy's namespace, and of it those that choose a gateway by its labels; then those for its
class, its Gateway, and the service; of each the oldest.
"""

from collections.abc import Iterator, Sized
from enum import Enum, auto
from itertools import islice
from typing import assert_never

from control.envoy.guarding import targets_at
from control.envoy.place import Place
from control.envoy.proxies import ProxyKind, find_proxy
from control.envoy.world import World
from control.kinds import Telemetry
from control.kinds.telemetry import WorkloadMode
from control.model.labels import selects
from control.model.waypoint_guards import ClassTarget, Target, target_of


class Part(Enum):
    """What an object may say something of; objects that don't are passed over."""

    LOGGING = auto()
    METRICS = auto()
    TRACING = auto()


def telemetry_at(world: World, place: Place, part: Part) -> tuple[Telemetry, ...]:
    """Widest first."""
    return tuple(_holding(world, place, part))


def other_side(world: World, place: Place) -> WorkloadMode:
    """What is said of it does not concern this proxy: gateways are the clients of what they call, waypoints are servers."""
    proxy = world.ask(find_proxy, place.proxy)
    return WorkloadMode.SERVER if proxy is not None and proxy.kind is ProxyKind.GATEWAY else WorkloadMode.CLIENT


def _holding(world: World, place: Place, part: Part) -> Iterator[Telemetry]:
    proxy = world.ask(find_proxy, place.proxy)
    if proxy is None:
        return
    root = world.settings.root_namespace
    namespaces = (root,) if proxy.namespace == root else (root, proxy.namespace)
    everywhere = world.ask(_by_namespace, part)
    yield from (everywhere[namespace] for namespace in namespaces if namespace in everywhere)
    if proxy.kind is ProxyKind.GATEWAY:
        own = (one for one in _saying(world, part) if one.metadata.namespace == proxy.namespace and not one.targets)
        yield from islice((one for one in own if one.spec.selector and selects(one.spec.selector.match_labels, proxy.labels)), 1)
    by_target = world.ask(_by_target, part)
    # `targets_at` has them in no such order: a class is wider than a Gateway, and that than a service.
    targets = sorted(world.ask(targets_at, place), key=lambda one: (not isinstance(one, ClassTarget), one != proxy.owner))
    yield from (by_target[target] for target in targets if target in by_target)


def _by_namespace(world: World, part: Part) -> dict[str, Telemetry]:
    """Of each namespace the oldest object for all of it."""
    found: dict[str, Telemetry] = {}
    for one in _saying(world, part):
        if not one.targets and one.spec.selector is None:
            found.setdefault(one.metadata.namespace, one)
    return found


def _by_target(world: World, part: Part) -> dict[Target, Telemetry]:
    found: dict[Target, Telemetry] = {}
    for one in _saying(world, part):
        for reference in one.targets:
            target = target_of(reference, one.metadata.namespace, world.settings.root_namespace)
            if target is not None:
                found.setdefault(target, one)
    return found


def _saying(world: World, part: Part) -> Iterator[Telemetry]:
    return (one for one in world.objects(Telemetry) if _entries(one, part))


def _entries(item: Telemetry, part: Part) -> Sized:
    match part:
        case Part.LOGGING:
            return item.spec.access_logging
        case Part.METRICS:
            return item.spec.metrics
        case Part.TRACING:
            return item.spec.tracing
    assert_never(part)
