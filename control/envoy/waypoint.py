"""All that the Envoy of a waypoint is served: its tunnels, and for each service that is bound to it chains, routes and clusters."""

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Built, Recipe
from control.envoy.catalogue import CatalogService, Resolution
from control.envoy.clusters import service_cluster
from control.envoy.endpoints import load_assignment
from control.envoy.ingress import waypoint_between
from control.envoy.limits.filters import lacks_server, limit_clusters
from control.envoy.limits.server import NOBODY, nobody_cluster
from control.envoy.listeners.tunnel import (
    Destinations,
    direct_originate_listener,
    internal_cluster,
    originate_cluster,
    originate_listener,
    terminate_listener,
    terminate_routes,
)
from control.envoy.listeners.waypoint import internal_listener, layers, waits
from control.envoy.listeners.workloads import destinations, direct_cluster, direct_workloads, plaintext_cluster
from control.envoy.logging_rules import logging_clusters
from control.envoy.naming import DIRECT, DIRECT_ORIGINATE, DIRECT_PLAIN, INTERNAL, ORIGINATE, SNIFFING, TERMINATE, ClusterRef, Layer
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey, find_proxy
from control.envoy.routes import http_route_resource, http_routes, server_name_targets, tcp_target
from control.envoy.security import asked_clusters, key_cluster, key_servers, table_name
from control.envoy.tracing_rules import tracing_clusters
from control.envoy.world import World
from meshapi.workload import ServiceKey


def waypoint_recipes(world: World, proxy: ProxyKey, listen: tuple[str, ...]) -> tuple[Recipe, ...]:
    """Everything, by type and name."""
    recipes = [
        Recipe(LISTENER, TERMINATE, terminate_listener, (listen,)),
        Recipe(LISTENER, INTERNAL, main_listener, (proxy,)),
        Recipe(LISTENER, SNIFFING, sniffing_listener, (proxy,)),
        Recipe(LISTENER, ORIGINATE, originate_listener),
        Recipe(ROUTES, TERMINATE, ways_in, (proxy,)),
        *(Recipe(CLUSTER, name, internal_cluster, (name,)) for name in (INTERNAL, SNIFFING)),
        Recipe(CLUSTER, ORIGINATE, originate_cluster),
    ]
    if world.ask(direct_workloads, proxy):
        recipes += [
            Recipe(LISTENER, DIRECT_ORIGINATE, direct_originate_listener),
            Recipe(CLUSTER, DIRECT, direct_cluster),
            Recipe(CLUSTER, DIRECT_PLAIN, plaintext_cluster),
            *world.ask(asked_recipes, Place(proxy)),
        ]
    for key in world.ask(waypoint_services, proxy):
        recipes += world.ask(_service_recipes, proxy, key)
    return tuple(recipes)


def waypoint_services(world: World, proxy: ProxyKey) -> tuple[ServiceKey, ...]:
    """The services bound to a waypoint; of several with one hostname the one of its own namespace, else the first."""
    found = world.ask(find_proxy, proxy)
    if found is None or found.address is None:
        return ()
    by_host: dict[str, ServiceKey] = {}
    for key in sorted(world.bound_services(found.address), key=lambda one: (not one.startswith(f"{found.namespace}/"), one)):
        by_host.setdefault(key.partition("/")[2], key)
    return tuple(sorted(by_host.values()))


def main_listener(world: World, proxy: ProxyKey) -> Built | None:
    return internal_listener(world, proxy, world.ask(waypoint_services, proxy), sniffing=False)


def sniffing_listener(world: World, proxy: ProxyKey) -> Built | None:
    return internal_listener(world, proxy, world.ask(waypoint_services, proxy), sniffing=True)


def ways_in(world: World, proxy: ProxyKey) -> Built:
    """The authorities that the waypoint takes, and from whom it does not."""
    services = (world.service(key) for key in world.ask(waypoint_services, proxy))
    found = [_destinations(world, proxy, one) for one in services if one is not None and one.ports]
    return terminate_routes((*found, *world.ask(destinations, proxy)), world.revocations())


def _destinations(world: World, proxy: ProxyKey, service: CatalogService) -> Destinations:
    sniffed = [port.number for port in service.ports if world.ask(waits, Place(proxy, service.key, port.number))]
    said = [port.number for port in service.ports if port.number not in sniffed]
    return Destinations(service.key, service.addresses, tuple(said), tuple(sniffed))


def _service_recipes(world: World, proxy: ProxyKey, key: ServiceKey) -> tuple[Recipe, ...]:
    service = world.service(key)
    if service is None:
        return ()
    found: list[Recipe] = []
    clusters: dict[ClusterRef, None] = {}
    for port in service.ports:
        place = Place(proxy, key, port.number)
        found += world.ask(asked_recipes, place)
        if not port.http:
            clusters |= dict.fromkeys(ref for target in world.ask(server_name_targets, place) for ref in target.clusters)
        for layer in layers(port):
            table = world.ask(http_routes, place) if layer is Layer.HTTP else world.ask(tcp_target, place)
            if table is None:
                continue
            clusters |= dict.fromkeys(table.clusters)
            if layer is Layer.HTTP:
                found.append(Recipe(ROUTES, world.ask(table_name, place), http_route_resource, (place,)))
    for ref in clusters:
        found += world.ask(cluster_recipes, proxy, ref)
    return tuple(found)


def asked_recipes(world: World, place: Place) -> tuple[Recipe, ...]:
    """The clusters of those who are asked about requests of a place, or told: for keys, for leave, how many there were, spans and logs."""
    found = [Recipe(CLUSTER, server.cluster, key_cluster, (server,)) for server in world.ask(key_servers, place)]
    if lacks_server(world, place):
        found.append(Recipe(CLUSTER, NOBODY, nobody_cluster))
    for clusters in (asked_clusters, limit_clusters, tracing_clusters, logging_clusters):
        for ref in world.ask(clusters, place):
            found += world.ask(cluster_recipes, place.proxy, ref)
    return tuple(found)


def cluster_recipes(world: World, proxy: ProxyKey, ref: ClusterRef) -> tuple[Recipe, ...]:
    """A cluster, and its endpoints where they come apart from it."""
    service = world.service(ref.service)
    if service is None or service.port(ref.port) is None:
        return ()
    cluster = Recipe(CLUSTER, ref.name, service_cluster, (proxy, ref))
    if world.ask(waypoint_between, proxy, ref.service) is None and (service.by_dns or service.resolution is Resolution.NONE):
        return (cluster,)
    return (cluster, Recipe(ENDPOINTS, ref.name, load_assignment, (proxy, ref)))
