"""Where requests and connections to a service's port go: to its endpoints, unless routing rules say otherwise."""

from msgspec import Struct

from control.envoy.built import Built, built
from control.envoy.listeners.requests import without_ambiguity
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef, Layer, chain_name
from control.envoy.parts import extension
from control.envoy.place import Place
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


def http_routes(world: World, place: Place) -> RouteTable | None:
    """The RouteConfiguration of a place, named as its filter chain is."""
    service = world.service(place.service) if place.service is not None else None
    if service is None:
        return None
    cluster = ClusterRef(service.key, place.port)
    # What a request may take is for its caller to say, unless a rule says it.
    action = {"cluster": cluster.name, "timeout": {"seconds": 0}}
    host = {"name": service.hostname, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
    name = chain_name(service.key, place.port, Layer.HTTP)
    message = new("envoy.config.route.v3.RouteConfiguration", name=name, virtual_hosts=[host])
    return RouteTable(built(name, message, (service.owner,)), (cluster,))


def http_route_resource(world: World, place: Place) -> Built | None:
    """The resource alone."""
    table = world.ask(http_routes, place)
    return without_ambiguity(world, place, table.routes) if table is not None else None


def tcp_target(world: World, place: Place) -> TCPTarget | None:
    """Where connections of a place go."""
    service = world.service(place.service) if place.service is not None else None
    if service is None:
        return None
    cluster = ClusterRef(service.key, place.port, Layer.TCP)
    proxy = extension("tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=cluster.name, cluster=cluster.name)
    return TCPTarget(new("envoy.config.listener.v3.Filter", **proxy), (cluster,), (service.owner,))
