"""Which policies hold at a place: those that name its service, its Gateway or its class, and those that select a gateway."""

from collections.abc import Mapping
from typing import TypeVar

from control.envoy.place import Place
from control.envoy.proxies import Proxy, ProxyKey, ProxyKind, find_proxy
from control.envoy.world import World
from control.kinds import AuthorizationPolicy, Gateway, RateLimit, RequestAuthentication
from control.kinds.security import Selector
from control.model.labels import selects
from control.model.waypoint_guards import ClassTarget, Target, target_of

P = TypeVar("P", AuthorizationPolicy, RequestAuthentication, RateLimit)


def authorization_of(world: World, place: Place) -> tuple[AuthorizationPolicy, ...]:
    """Oldest first."""
    return _holding(world, place, AuthorizationPolicy)


def authentication_of(world: World, place: Place) -> tuple[RequestAuthentication, ...]:
    """Oldest first."""
    return _holding(world, place, RequestAuthentication)


def limits_of(world: World, place: Place) -> tuple[RateLimit, ...]:
    """Oldest first."""
    return _holding(world, place, RateLimit)


def _holding(world: World, place: Place, kind: type[P]) -> tuple[P, ...]:
    proxy = world.ask(find_proxy, place.proxy)
    if proxy is None:
        return ()
    named: Mapping[Target, tuple[P, ...]] = world.ask(_by_target, kind)
    found = [policy for target in world.ask(targets_at, place) for policy in named.get(target, ())]
    if proxy.kind is ProxyKind.GATEWAY:
        found += world.ask(_selecting, place.proxy, kind)
    return tuple(sorted({policy.key: policy for policy in found}.values(), key=lambda policy: policy.metadata.age_rank))


def _by_target(world: World, kind: type[P]) -> Mapping[Target, tuple[P, ...]]:
    found: dict[Target, list[P]] = {}
    for policy in world.objects(kind):
        for reference in policy.targets:
            target = target_of(reference, policy.metadata.namespace, world.settings.root_namespace)
            if target is not None:
                found.setdefault(target, []).append(policy)
    return {target: tuple(policies) for target, policies in found.items()}


def targets_at(world: World, place: Place) -> tuple[Target, ...]:
    """What an object may name to hold here."""
    found: list[Target] = []
    proxy = world.ask(find_proxy, place.proxy)
    if proxy is not None:
        found.append(proxy.owner)
        gateway = world.find(Gateway, place.proxy.namespace, place.proxy.name)
        if gateway is not None:
            found.append(ClassTarget(gateway.spec.gateway_class_name))
    service = world.service(place.service) if place.service is not None else None
    return (*found, service.owner) if service is not None else tuple(found)


def _selecting(world: World, key: ProxyKey, kind: type[P]) -> tuple[P, ...]:
    """Policies for the workloads of a gateway: of its namespace, or of the whole mesh."""
    proxy = world.ask(find_proxy, key)
    return tuple(policy for policy in world.objects(kind) if proxy is not None and _selects(policy, proxy, world.settings.root_namespace))


def _selects(policy: P, proxy: Proxy, root_namespace: str) -> bool:
    if isinstance(policy, RateLimit):
        return False
    if policy.targets or policy.metadata.namespace not in {proxy.namespace, root_namespace}:
        return False
    selector: Selector | None = policy.spec.selector
    return selector is None or selects(selector.match_labels, proxy.labels)
