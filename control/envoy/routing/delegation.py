"""Delegates: a route of one VirtualService that leaves the rest to another, whose routes then stand in its place.

A delegate's conditions narrow those of the route that names it; where the two contradict each other, that alternative is left out.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from control.envoy.built import Problem
from control.envoy.routing.scope import exported, full_gateway, full_host
from control.envoy.world import World
from control.kinds import Kind, ObjectKey, VirtualService
from control.kinds.routing import Destination, HTTPMatch, HTTPRoute, StringMatch

MAX_PAIRS: Final = 10_000
"""How many conditions are brought together for one VirtualService: each of its own with each of a delegate's."""
_INHERITED: Final = ("rewrite", "timeout", "retries", "fault", "cors_policy", "headers")


class OwnedRoute(Struct, frozen=True):
    """A route, and whose it is: hosts and gateways are named as its namespace may."""

    route: HTTPRoute
    owner: ObjectKey


class Delegated(Struct, frozen=True):
    """The routes of a VirtualService with its delegates' in place, and what went wrong."""

    routes: tuple[OwnedRoute, ...]
    problems: tuple[Problem, ...] = ()


def with_delegates(world: World, root: VirtualService) -> Delegated:
    """All routes, in their order."""
    routes: list[OwnedRoute] = []
    problems: list[Problem] = []
    left = MAX_PAIRS
    for route in root.spec.http:
        if route.delegate is None:
            routes.append(OwnedRoute(route, root.key))
            continue
        namespace = route.delegate.namespace or root.metadata.namespace
        delegate = world.find(VirtualService, namespace, route.delegate.name)
        why = _refused(delegate, root.metadata.namespace)
        if delegate is None or why:
            problems.append(Problem(root.key, f"the delegate {namespace}/{route.delegate.name} {why}: nothing stands in its place"))
            continue
        left -= sum(max(1, len(route.match)) * max(1, len(inner.match)) for inner in delegate.spec.http)
        if left < 0:
            problems.append(Problem(root.key, f"more than {MAX_PAIRS} conditions come together in its delegates: the rest is left out"))
            continue
        merged = [_merged(route, inner, (root.metadata.namespace, namespace), world.settings.domain) for inner in delegate.spec.http]
        if None in merged:
            problems.append(Problem(delegate.key, f"some of its conditions contradict those of {root.key}: these routes are left out"))
        key = ObjectKey(Kind.VIRTUAL_SERVICE, namespace, delegate.metadata.name)
        routes += [OwnedRoute(one, key) for one in merged if one is not None]
    return Delegated(tuple(routes), tuple(problems))


def _refused(delegate: VirtualService | None, viewer: str) -> str:
    if delegate is None:
        return "is not there"
    if not delegate.delegated:
        return "has hosts of its own"
    if not exported(delegate.spec.export_to, delegate.metadata.namespace, viewer):
        return "is not for this namespace"
    return ""


def _merged(root: HTTPRoute, inner: HTTPRoute, namespaces: tuple[str, str], domain: str) -> HTTPRoute | None:
    """The delegate's route under the root's conditions, with what the root says where the delegate says nothing."""
    outer, own = (_conditions(route, namespace) for route, namespace in zip((root, inner), namespaces, strict=True))
    matches = tuple(both for one in outer for two in own if (both := _both(one, two)) is not None)
    if not matches:
        return None
    changes: dict[str, Any] = {name: getattr(root, name) for name in _INHERITED if getattr(root, name) and not getattr(inner, name)}
    if (root.mirror or root.mirrors) and not (inner.mirror or inner.mirrors):
        changes["mirror_percentage"] = root.mirror_percentage
        changes["mirror"] = _absolute(root.mirror, namespaces[0], domain) if root.mirror else None
        changes["mirrors"] = tuple(
            msgspec.structs.replace(one, destination=_absolute(one.destination, namespaces[0], domain)) for one in root.mirrors
        )
    name = "-".join(filter(None, (root.name, inner.name)))
    return msgspec.structs.replace(inner, match=matches, name=name, **changes)


def _absolute(destination: Destination, namespace: str, domain: str) -> Destination:
    return msgspec.structs.replace(destination, host=full_host(destination.host, namespace, domain))


def _conditions(route: HTTPRoute, namespace: str) -> list[HTTPMatch]:
    """The alternatives of a route, one at least, with the whole names of gateways."""
    return [
        msgspec.structs.replace(one, gateways=tuple(sorted(full_gateway(gateway, namespace) for gateway in one.gateways)))
        for one in route.match or (HTTPMatch(),)
    ]


def _both(outer: HTTPMatch, inner: HTTPMatch) -> HTTPMatch | None:
    """What meets both; None where nothing can, or where it can't be said in one condition."""
    changes: dict[str, Any] = {}
    for name in ("uri", "scheme", "method", "authority"):
        one, two = getattr(outer, name), getattr(inner, name)
        changes[name] = _narrower(one, two)
        if changes[name] is None and (one or two):
            return None
    for name in ("headers", "without_headers", "query_params", "source_labels"):
        one, two = getattr(outer, name), getattr(inner, name)
        if any(one[key] != two[key] for key in one.keys() & two.keys()):
            return None
        changes[name] = {**one, **two}
    for name in ("port", "source_namespace", "gateways"):
        one, two = getattr(outer, name), getattr(inner, name)
        if one and two and one != two:
            return None
        changes[name] = two or one
    if outer.uri and inner.uri and outer.ignore_uri_case != inner.ignore_uri_case:
        return None
    changes["ignore_uri_case"] = inner.ignore_uri_case if inner.uri else outer.ignore_uri_case
    changes["name"] = "-".join(filter(None, (outer.name, inner.name)))
    return msgspec.structs.replace(inner, **changes)


def _narrower(outer: StringMatch | None, inner: StringMatch | None) -> StringMatch | None:
    """The inner one if all that it takes is taken by the outer, too."""
    if outer is None or inner is None or outer == inner:
        return inner or outer
    if outer.prefix is None:
        return None
    stated = inner.exact if inner.exact is not None else inner.prefix
    return inner if stated is not None and stated.startswith(outer.prefix) else None
