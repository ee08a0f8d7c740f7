"""Where requests and connections to a service's port go: to its endpoints, unless routing rules say otherwise.

Istio's rules come before the Gateway API's: where a VirtualService names a service, routes that are attached to it have no effect.
"""

from typing import Any

from msgspec import Struct

from control.envoy.built import Built, Problem, built
from control.envoy.catalogue import CatalogService
from control.envoy.destinations.hashing import hash_policies
from control.envoy.listeners.requests import without_ambiguity
from control.envoy.lookup import domains
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef, Layer, chain_name
from control.envoy.patches.routes import patched_routes
from control.envoy.patches.spot import spot_at
from control.envoy.place import Place
from control.envoy.routing.api_table import api_rule_routes, api_rules, foreign_rules
from control.envoy.routing.http_table import RouteList, body_limit, http_rule_routes
from control.envoy.routing.l4_table import carrier, tcp_rule, tls_rules
from control.envoy.routing.retries import retry_policy
from control.envoy.routing.scope import Scope, Target
from control.envoy.routing.virtual_services import mesh_rules
from control.envoy.security import judged_by_routes, with_judges
from control.envoy.world import World
from control.kinds import ObjectKey


class RouteTable(Struct, frozen=True):
    """The routes of HTTP at a place, and the clusters that they name: those are served, too."""

    routes: Built
    clusters: tuple[ClusterRef, ...]


class TCPTarget(Struct, frozen=True):
    """The network filter that carries connections at a place, and the clusters that it names."""

    filter: Message
    clusters: tuple[ClusterRef, ...]
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()
    server_names: tuple[str, ...] = ()
    """For which of TLS alone; none = for all."""


def http_routes(world: World, place: Place) -> RouteTable | None:
    """The RouteConfiguration of a place, named as its filter chain is."""
    service = world.service(place.service) if place.service is not None else None
    if service is None:
        return None
    rules = rules_of(world, place, service)
    scope = Scope(place.proxy, place.port)
    of_api = world.ask(api_rules, service.owner, place.port)
    found = http_rule_routes(world, scope, rules[0]) if rules else api_rule_routes(world, scope, of_api) if of_api else RouteList()
    if not found.routes:
        found = _plain(world, place, service, found)
    host = {"name": service.hostname, "domains": domains(service, place.port), "routes": found.routes}
    name = chain_name(service.key, place.port, Layer.HTTP)
    message = new(
        "envoy.config.route.v3.RouteConfiguration",
        name=name,
        virtual_hosts=[host],
        # A destination that is not there is no reason to refuse the others.
        validate_clusters={"value": False},
        **body_limit(found.routes),
    )
    problems = (
        *found.problems,
        *_outranked((*rules, *of_api) if rules else (), service),
        *world.ask(foreign_rules, service.owner, place.port),
    )
    return RouteTable(built(name, message, (service.owner, *found.sources), problems), found.clusters)


def rules_of(world: World, place: Place, service: CatalogService) -> tuple[ObjectKey, ...]:
    """The VirtualServices for a service at a place, of which the first one holds."""
    names = (service.hostname, *(str(address) for address in service.addresses))
    return world.ask(mesh_rules, names, service.namespace, place.proxy.namespace)


def http_route_resource(world: World, place: Place) -> Built | None:
    """The resource alone."""
    table = world.ask(http_routes, place)
    if table is None:
        return None
    routes = without_ambiguity(world, place, patched_routes(world, spot_at(world, place), table.routes))
    return with_judges(world, place, routes) if world.ask(judged_by_routes, place) else routes


def tcp_target(world: World, place: Place) -> TCPTarget | None:
    """Where connections of a place go."""
    service = world.service(place.service) if place.service is not None else None
    if service is None:
        return None
    rules = rules_of(world, place, service)
    scope = Scope(place.proxy, place.port)
    carried = tcp_rule(world, scope, rules[0], service.addresses) if rules else None
    if carried is not None:
        return TCPTarget(carried.filter, carried.clusters, (service.owner, rules[0]), carried.problems)
    cluster = ClusterRef(service.key, place.port, Layer.TCP)
    return TCPTarget(carrier(world, scope, [(Target(cluster.name, cluster), 0)]), (cluster,), (service.owner,))


def server_name_targets(world: World, place: Place) -> tuple[TCPTarget, ...]:
    """Where TLS connections of a place go by the name that they ask for, in the order in which that is tried."""
    service = world.service(place.service) if place.service is not None else None
    rules = rules_of(world, place, service) if service is not None else ()
    if service is None or not rules:
        return ()
    found = tls_rules(world, Scope(place.proxy, place.port), rules[0], service.addresses)
    return tuple(TCPTarget(one.filter, one.clusters, (service.owner, rules[0]), one.problems, one.server_names) for one in found)


def _plain(world: World, place: Place, service: CatalogService, ruled: RouteList) -> RouteList:
    """Everything to the service's endpoints."""
    cluster = ClusterRef(service.key, place.port)
    hashed = hash_policies(world, place.proxy, cluster)
    # What a request may take is for its caller to say, unless a rule says it.
    action: dict[str, Any] = {"cluster": cluster.name, "timeout": {"seconds": 0}, "hash_policy": list(hashed)}
    action["retry_policy"] = retry_policy(None, sticky=bool(hashed))
    route = new("envoy.config.route.v3.Route", match={"prefix": "/"}, route=action)
    return RouteList((route,), (cluster,), problems=ruled.problems)


def _outranked(rules: tuple[ObjectKey, ...], service: CatalogService) -> list[Problem]:
    return [Problem(key, f"has no effect on {service.hostname}: {rules[0]} names it more exactly, or is older") for key in rules[1:]]
