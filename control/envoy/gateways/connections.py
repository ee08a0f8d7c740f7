"""Where connections of a gateway go that are not read as HTTP: by Istio's tcp and tls routes, by TCPRoutes and TLSRoutes."""

from collections.abc import Iterator

from msgspec import Struct

from control.envoy.built import Problem
from control.envoy.gateways.attached import attached_routes
from control.envoy.gateways.hosts import bound_services, narrower
from control.envoy.gateways.servers import ANY, Carries, Server
from control.envoy.messages import Message
from control.envoy.naming import ClusterRef, Layer
from control.envoy.proxies import ProxyKey
from control.envoy.routing.api_rules import backend_destination
from control.envoy.routing.destinations import find_target
from control.envoy.routing.l4_table import Carried, carrier, tcp_rule, tls_rules
from control.envoy.routing.scope import Scope
from control.envoy.world import World
from control.kinds import Kind, ObjectKey, TCPRoute, TLSRoute


class Way(Struct, frozen=True):
    """The filter that carries connections; `names`: those of TLS that ask for these, none = all."""

    filter: Message
    clusters: tuple[ClusterRef, ...]
    names: tuple[str, ...] = ()
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


def ways(world: World, proxy: ProxyKey, server: Server) -> tuple[Way, ...]:
    """Of one server, the first that fits a connection holds."""
    if server.carries is Carries.PASSTHROUGH:
        return (*_named_by_rules(world, proxy, server), *_of_api(world, proxy, server, Kind.TLS_ROUTE))
    found = (*_by_rules(world, proxy, server), *_of_api(world, proxy, server, Kind.TCP_ROUTE))
    if server.carries is Carries.TLS:
        found = (*found, *_of_api(world, proxy, server, Kind.TLS_ROUTE))
    return found[:1]


def _scope(proxy: ProxyKey, server: Server) -> Scope:
    return Scope(proxy, server.port, (server.gateway,), server.carries is Carries.TLS, peers=False)


def _by_rules(world: World, proxy: ProxyKey, server: Server) -> Iterator[Way]:
    for key in dict.fromkeys(key for _, key in bound_services(world, proxy, server)):
        carried = tcp_rule(world, _scope(proxy, server), key, ())
        if carried is not None:
            yield _way(carried, key, ())


def _named_by_rules(world: World, proxy: ProxyKey, server: Server) -> Iterator[Way]:
    for key in dict.fromkeys(key for _, key in bound_services(world, proxy, server)):
        for carried in tls_rules(world, _scope(proxy, server), key):
            allowed = {claim.host for claim in server.claims if claim.namespace in {ANY, key.namespace}}
            names = [found for name in carried.server_names for host in allowed if (found := narrower(host, name))]
            if names:
                yield _way(carried, key, tuple(dict.fromkeys(names)))


def _way(carried: Carried, key: ObjectKey, names: tuple[str, ...]) -> Way:
    return Way(carried.filter, carried.clusters, names, (key,), carried.problems)


def _of_api(world: World, proxy: ProxyKey, server: Server, kind: Kind) -> Iterator[Way]:
    for attached in world.ask(attached_routes, server, (kind,)):
        names = [found for claim in server.claims for host in attached.hostnames or (ANY,) if (found := narrower(claim.host, host))]
        if names and (way := _api_way(world, proxy, server, attached.route)) is not None:
            yield Way(way.filter, way.clusters, tuple(dict.fromkeys(names)), way.sources, way.problems)


def _api_way(world: World, proxy: ProxyKey, server: Server, key: ObjectKey) -> Way | None:
    route: TCPRoute | TLSRoute | None = world.find(TLSRoute, key.namespace, key.name)
    if key.kind is Kind.TCP_ROUTE:
        route = world.find(TCPRoute, key.namespace, key.name)
    backends = [one for rule in route.spec.rules[:1] for one in rule.backend_refs if one.weight] if route is not None else []
    if not backends:
        return None
    scope = _scope(proxy, server)
    targets = [(find_target(world, scope, key.namespace, backend_destination(world, key, one), Layer.TCP), one.weight) for one in backends]
    clusters = tuple(dict.fromkeys(target.cluster for target, _ in targets if target.cluster is not None))
    problems = tuple(Problem(key, target.problem) for target, _ in targets if target.problem)
    return Way(carrier(world, scope, targets), clusters, (), (key,), problems)
