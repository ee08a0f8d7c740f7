"""The HTTP routes that a VirtualService makes at a place, in its order, with the clusters that they name."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from control.envoy.built import Problem
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef
from control.envoy.routing.clients import clients_of
from control.envoy.routing.delegation import OwnedRoute, with_delegates
from control.envoy.routing.http_actions import action
from control.envoy.routing.http_matches import applies, route_match
from control.envoy.routing.route_filters import filter_settings
from control.envoy.routing.scope import Scope
from control.envoy.world import World
from control.kinds import ObjectKey, VirtualService
from control.kinds.routing import HTTPMatch

USUAL_BODY_BYTES: Final = 4096


class RouteList(Struct, frozen=True):
    """Envoy's Routes; without any, the rule says nothing about this place."""

    routes: tuple[Message, ...] = ()
    clusters: tuple[ClusterRef, ...] = ()
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


def http_rule_routes(world: World, scope: Scope, key: ObjectKey) -> RouteList:
    """The routes of one VirtualService for a port of a proxy."""
    service = world.find(VirtualService, key.namespace, key.name)
    if service is None:
        return RouteList()
    delegated = with_delegates(world, service)
    found = routes_of(world, scope, delegated.routes, (key,))
    return msgspec.structs.replace(found, problems=tuple(dict.fromkeys((*delegated.problems, *found.problems))))


def routes_of(world: World, scope: Scope, owned_routes: tuple[OwnedRoute, ...], owners: tuple[ObjectKey, ...]) -> RouteList:
    """Envoy's Routes for these, up to the first one that takes everything."""
    routes: list[Message] = []
    clusters: dict[ClusterRef, None] = {}
    sources: dict[ObjectKey, None] = dict.fromkeys(owners)
    problems: list[Problem] = []
    for owned in owned_routes:
        matches = _applying(owned, scope)
        if not matches:
            continue
        done = action(world, scope, owned.owner.namespace, owned.route)
        sources[owned.owner] = None
        clusters |= dict.fromkeys(target.cluster for target in done.targets if target.cluster is not None)
        problems += [Problem(owned.owner, target.problem) for target in done.targets if target.problem]
        settings = filter_settings(owned.route)
        for match in matches:
            routes.append(_route(world, owned, match, {**done.fields, "typed_per_filter_config": settings}))
            if catches_all(routes[-1]):
                return RouteList(tuple(routes), tuple(clusters), tuple(sources), tuple(dict.fromkeys(problems)))
    return RouteList(tuple(routes), tuple(clusters), tuple(sources), tuple(dict.fromkeys(problems)))


def body_limit(routes: tuple[Message, ...]) -> dict[str, Any]:
    """The field of a RouteConfiguration that lets answers of routes be as long as these are."""
    sizes = [len(one.direct_response.body.inline_string.encode() or one.direct_response.body.inline_bytes) for one in routes]
    longest = max(sizes, default=0)
    return {"max_direct_response_body_size_bytes": {"value": longest}} if longest > USUAL_BODY_BYTES else {}


def _applying(owned: OwnedRoute, scope: Scope) -> tuple[HTTPMatch | None, ...]:
    if not owned.route.match:
        return (None,)
    return tuple(one for one in owned.route.match if applies(one, scope, owned.owner.namespace))


def _route(world: World, owned: OwnedRoute, match: HTTPMatch | None, fields: dict[str, Any]) -> Message:
    name = ".".join(filter(None, (owned.route.name, match.name if match else "")))
    prefix = {"stat_prefix": match.stat_prefix} if match and match.stat_prefix else {}
    where = {"decorator": {"operation": f"{owned.owner.namespace}/{owned.owner.name}{f' {name}' if name else ''}"}}
    conditions = route_match(match, world.settings.trust_domain, clients_of(world, match) if match else None)
    return new("envoy.config.route.v3.Route", name=name, match=conditions, **prefix, **where, **fields)


def catches_all(route: Message) -> bool:
    """Whether nothing comes to the routes behind it."""
    match = route.match
    anything = match.prefix == "/" or match.safe_regex.regex == ".*"
    return bool(anything and not match.headers and not match.query_parameters and not match.filter_state)
