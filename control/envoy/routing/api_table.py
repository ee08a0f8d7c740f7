"""The HTTP routes that the Gateway API's routes make at a place: those of all that are attached, in the order that it defines."""

import msgspec
from msgspec import Struct

from control.envoy.built import Problem
from control.envoy.routing.api_matches import Rank, call_match, call_rank, request_match, request_rank
from control.envoy.routing.api_rules import rule_route
from control.envoy.routing.delegation import OwnedRoute
from control.envoy.routing.http_table import RouteList, routes_of
from control.envoy.routing.scope import Scope
from control.envoy.world import World
from control.kinds import GRPCRoute, HTTPRoute, Kind, ObjectKey
from control.kinds.gateway_routes import CallMatch, GRPCRule, HTTPRule, RequestMatch
from control.kinds.routing import HTTPMatch

_PARENTS = {("", "Service"): Kind.SERVICE, ("core", "Service"): Kind.SERVICE, ("networking.istio.io", "ServiceEntry"): Kind.SERVICE_ENTRY}


class Attached(Struct, frozen=True, order=True):
    """A route that names a service as what it holds for; `port` 0: for all of its ports."""

    route: ObjectKey
    port: int = 0


def attached_to(world: World, service: ObjectKey) -> tuple[Attached, ...]:
    """The routes that name a service, oldest first."""
    return world.ask(_by_service).get(service, ())


def api_rules(world: World, service: ObjectKey, port: int) -> tuple[ObjectKey, ...]:
    """The routes that hold for a service's port: those of its own namespace."""
    found = (one for one in world.ask(attached_to, service) if one.port in {0, port} and one.route.namespace == service.namespace)
    return tuple(dict.fromkeys(one.route for one in found))


def foreign_rules(world: World, service: ObjectKey, port: int) -> tuple[Problem, ...]:
    """Those of other namespaces hold for their own callers alone, whom nobody tells apart here."""
    found = (one for one in world.ask(attached_to, service) if one.port in {0, port} and one.route.namespace != service.namespace)
    return tuple(Problem(one.route, f"is left out at {service}: routes there are its own namespace's") for one in found)


def api_rule_routes(world: World, scope: Scope, keys: tuple[ObjectKey, ...]) -> RouteList:
    """All routes of these, as one table."""
    return routes_of(world, scope, ranked_routes(world, keys), keys)


def ranked_routes(world: World, keys: tuple[ObjectKey, ...]) -> tuple[OwnedRoute, ...]:
    """The routes of these, oldest first, in the order in which they are tried."""
    ranked = [entry for age, key in enumerate(keys) for entry in _ranked(world, key, age)]
    return tuple(one for _, one in sorted(ranked, key=lambda entry: entry[0]))


def _ranked(world: World, key: ObjectKey, age: int) -> list[tuple[tuple[Rank, int, int, int], OwnedRoute]]:
    """One route for each condition, with its place among all."""
    found = []
    for at, rule in enumerate(_rules(world, key)):
        matches: tuple[RequestMatch | CallMatch, ...] = rule.matches
        if not matches:
            matches = (RequestMatch() if isinstance(rule, HTTPRule) else CallMatch(),)
        for index, match in enumerate(matches):
            rank, condition, prefix = _condition(match)
            route = msgspec.structs.replace(rule_route(world, key, rule, prefix), match=(condition,))
            found.append(((rank, age, at, index), OwnedRoute(route, key)))
    return found


def _rules(world: World, key: ObjectKey) -> tuple[HTTPRule | GRPCRule, ...]:
    if key.kind is Kind.HTTP_ROUTE:
        route = world.find(HTTPRoute, key.namespace, key.name)
        return route.spec.rules if route is not None else ()
    call = world.find(GRPCRoute, key.namespace, key.name)
    return call.spec.rules if call is not None else ()


def _condition(match: RequestMatch | CallMatch) -> tuple[Rank, HTTPMatch, str]:
    if isinstance(match, CallMatch):
        return call_rank(match), call_match(match), ""
    return request_rank(match), request_match(match), match.path.value if match.path.type == "PathPrefix" else ""


def _by_service(world: World) -> dict[ObjectKey, tuple[Attached, ...]]:
    found: dict[ObjectKey, list[Attached]] = {}
    routes: list[HTTPRoute | GRPCRoute] = [*world.objects(HTTPRoute), *world.objects(GRPCRoute)]
    for route in sorted(routes, key=lambda one: one.metadata.age_rank):
        for parent in route.spec.parent_refs:
            kind = _PARENTS.get((parent.group, parent.kind))
            if kind is not None:
                service = ObjectKey(kind, parent.namespace or route.metadata.namespace, parent.name)
                found.setdefault(service, []).append(Attached(route.key, parent.port))
    return {service: tuple(attached) for service, attached in found.items()}
