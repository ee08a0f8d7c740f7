"""Whose rules hold for which hosts of a gateway's servers, and the virtual hosts that come of them."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from control.envoy.gateways.attached import attached_routes
from control.envoy.gateways.servers import ANY, Claim, Server
from control.envoy.proxies import ProxyKey
from control.envoy.routing.api_table import api_rule_routes
from control.envoy.routing.http_table import RouteList, catches_all, http_rule_routes
from control.envoy.routing.scope import Scope, exported
from control.envoy.routing.virtual_services import bound_hosts
from control.envoy.world import World
from control.kinds import Kind, ObjectKey, VirtualService
from control.validation.routing_checks import covering


class HostRules(Struct):
    """What holds for one host: VirtualServices, with the gateways by which they came; routes of the Gateway API."""

    services: dict[ObjectKey, dict[str, None]]
    routes: dict[ObjectKey, None]
    redirect: bool = False


class VirtualHosts(Struct, frozen=True):
    """Envoy's VirtualHosts, and what they come from."""

    hosts: tuple[dict[str, Any], ...]
    rules: RouteList


def narrower(one: str, two: str) -> str:
    """The host that both names mean, of which each may be `*.name` or `*`; empty where there is none."""
    if two in covering(one):
        return one
    return two if one in covering(two) else ""


def bound_services(world: World, proxy: ProxyKey, server: Server) -> Iterator[tuple[str, ObjectKey]]:
    """The VirtualServices of an Istio server by the hosts that they may speak for, oldest first."""
    if server.owner.kind is not Kind.ISTIO_GATEWAY:
        return
    bound = world.ask(bound_hosts, server.gateway)
    ordered = sorted((one, host) for host, found in bound.items() for one in found)
    for one, host in ordered:
        service = world.find(VirtualService, one.key.namespace, one.key.name)
        if service is None or not exported(service.spec.export_to, one.key.namespace, proxy.namespace):
            continue
        for claim in server.claims:
            if claim.namespace in {ANY, one.key.namespace} and (found := narrower(claim.host, host)):
                yield found, one.key


def virtual_hosts(world: World, proxy: ProxyKey, servers: tuple[Server, ...]) -> VirtualHosts:
    """Of servers that share one table of routes: those of one plaintext port, or a single one of TLS."""
    by_host = _rules_by_host(world, proxy, servers)
    scope = Scope(proxy, servers[0].port, (), servers[0].secure, peers=False)
    hosts: list[dict[str, Any]] = []
    lists: list[RouteList] = []
    for host, rules in sorted(by_host.items()):
        found = _routes(world, scope, rules)
        lists += found
        routes = [route for one in found for route in one.routes]
        # Rules of several owners for one host are one table: what takes everything comes last.
        routes.sort(key=catches_all)
        more = {"require_tls": "ALL"} if rules.redirect else {}
        if routes or rules.redirect:
            hosts.append({"name": f"{host}:{scope.port}", "domains": [host], "routes": routes, **more})
    joined = RouteList(
        clusters=tuple(dict.fromkeys(ref for one in lists for ref in one.clusters)),
        sources=tuple(dict.fromkeys(source for one in lists for source in one.sources)),
        problems=tuple(dict.fromkeys(problem for one in lists for problem in one.problems)),
    )
    return VirtualHosts(tuple(hosts), joined)


def _rules_by_host(world: World, proxy: ProxyKey, servers: tuple[Server, ...]) -> dict[str, HostRules]:
    found: dict[str, HostRules] = {}
    for server in servers:
        for host, key in bound_services(world, proxy, server):
            _at(found, host).services.setdefault(key, {})[server.gateway] = None
        for claim in server.claims:
            for host, key in _attached(world, server, claim):
                _at(found, host).routes[key] = None
            if server.redirect:
                _at(found, claim.host).redirect = True
    redirected = [claim.host for server in servers if server.redirect for claim in server.claims]
    for host, rules in found.items():
        rules.redirect |= any(one in covering(host) for one in redirected)
    return found


def _at(found: dict[str, HostRules], host: str) -> HostRules:
    return found.setdefault(host, HostRules({}, {}))


def _attached(world: World, server: Server, claim: Claim) -> Iterator[tuple[str, ObjectKey]]:
    for one in world.ask(attached_routes, server, (Kind.HTTP_ROUTE, Kind.GRPC_ROUTE)):
        for host in one.hostnames or (ANY,):
            if found := narrower(claim.host, host):
                yield found, one.route


def _routes(world: World, scope: Scope, rules: HostRules) -> list[RouteList]:
    found = []
    for key, gateways in rules.services.items():
        found.append(http_rule_routes(world, Scope(scope.proxy, scope.port, tuple(gateways), scope.secure, peers=False), key))
    if rules.routes:
        found.append(api_rule_routes(world, scope, tuple(rules.routes)))
    return found
