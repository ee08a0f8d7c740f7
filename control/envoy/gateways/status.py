"""What the Gateway API wants told of Gateways and routes in their status: pure functions of the world, without times and versions.

Of a route's parents only those are ours that are Gateways which this controller configures, or Services; other controllers write theirs.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from control.envoy.credentials import Credential, parse
from control.envoy.gateways.attached import Route, admits, attached_routes
from control.envoy.gateways.hosts import narrower
from control.envoy.gateways.listeners import ports_of
from control.envoy.gateways.servers import ANY, Server, servers_of
from control.envoy.naming import Layer
from control.envoy.proxies import ProxyKey, ProxyKind, find_proxy
from control.envoy.routing.api_model import Nowhere
from control.envoy.routing.api_rules import backend_destination
from control.envoy.routing.destinations import find_target
from control.envoy.routing.scope import Scope
from control.envoy.world import World
from control.kinds import Gateway, GatewayClass, GRPCRoute, HTTPRoute, Kind, ObjectKey, Service, TCPRoute, TLSRoute
from control.kinds.gateway import GROUP, GatewayAddress, GatewayListener
from control.kinds.gateway_routes import BackendReference, MirrorReference, ParentReference
from control.model.waypoints import HBONE
from meshapi import wire

ROUTES: Final = (Kind.HTTP_ROUTE, Kind.GRPC_ROUTE, Kind.TLS_ROUTE, Kind.TCP_ROUTE)
_CONTROLLERS: Final = {"istio": "istio.io/gateway-controller", "nodemesh": "nodemesh.io/gateway-controller"}
_SPEAKERS: Final = frozenset({*_CONTROLLERS.values(), "istio.io/mesh-controller", "nodemesh.io/mesh-controller"})
_KINDS: Final = {
    "HTTP": (Kind.HTTP_ROUTE, Kind.GRPC_ROUTE),
    "HTTPS": (Kind.HTTP_ROUTE, Kind.GRPC_ROUTE),
    "TLS": (Kind.TLS_ROUTE, Kind.TCP_ROUTE),
    "TCP": (Kind.TCP_ROUTE,),
}


class Said(Struct, frozen=True):
    """A condition."""

    type: str
    holds: bool
    reason: str
    message: str = ""


class ListenerStatus(Struct, frozen=True):
    name: str
    kinds: tuple[str, ...]
    attached: int
    conditions: tuple[Said, ...]

    @property
    def served(self) -> bool:
        """Whether all that should hold does, and nothing else."""
        return all(one.holds != (one.type == "Conflicted") for one in self.conditions)


class GatewayState(Struct, frozen=True):
    """`addresses`: where it is reached, by what it states or by the Service of its name."""

    conditions: tuple[Said, ...]
    listeners: tuple[ListenerStatus, ...]
    addresses: tuple[GatewayAddress, ...] = ()


class ParentState(Struct, frozen=True):
    """What became of a route at one of its parents. `controller`: in whose name it is said."""

    parent: ParentReference
    controller: str
    conditions: tuple[Said, ...]


def controller_of(world: World, class_name: str) -> str:
    """Who answers for a class: as its GatewayClass says, if there is one."""
    found = next((one for one in world.objects(GatewayClass) if one.metadata.name == class_name), None)
    return found.spec.controller_name if found is not None else _CONTROLLERS.get(class_name, _CONTROLLERS["nodemesh"])


def gateway_state(world: World, key: ObjectKey, missing: Mapping[Credential, str] | None = None) -> GatewayState | None:
    """Of a Gateway of the mesh's classes; None for those of others. `missing`: why some certificates are not to be had."""
    proxy = world.ask(find_proxy, ProxyKey(key.namespace, key.name))
    gateway = world.find(Gateway, key.namespace, key.name)
    if gateway is None or proxy is None:
        return None
    if proxy.kind is ProxyKind.WAYPOINT:
        listeners = tuple(_of_waypoint(one) for one in gateway.spec.listeners)
    else:
        listeners = tuple(_listener(world, gateway, one, missing or {}) for one in gateway.spec.listeners)
    served = [one for one in listeners if one.served]
    accepted = Said("Accepted", holds=True, reason="Accepted")
    if len(served) < len(listeners):
        accepted = Said("Accepted", holds=bool(served), reason="ListenersNotValid", message=f"{len(served)} of {len(listeners)} listeners")
    addresses = _addresses(world, gateway)
    placed = Said("Programmed", holds=True, reason="Programmed")
    if not addresses:
        placed = Said("Programmed", holds=False, reason="AddressNotAssigned", message=_why_nowhere(world, gateway))
    return GatewayState((accepted, placed), listeners, addresses)


def refused(state: GatewayState | None, why: str) -> GatewayState:
    """What is told of a Gateway that is not valid; `state`: of what is in force of it, a former form."""
    conditions = (Said("Accepted", holds=False, reason="Invalid", message=why), Said("Programmed", holds=False, reason="Invalid"))
    return replace(state, conditions=conditions) if state is not None else GatewayState(conditions, ())


def refused_route(world: World, namespace: str, parents: Iterable[ParentReference], why: str) -> tuple[ParentState, ...]:
    """Likewise of a route, at each of the parents that it names."""
    said = (Said("Accepted", holds=False, reason="UnsupportedValue", message=why),)
    found = ((parent, _speaker(world, parent, parent.namespace or namespace)) for parent in parents)
    return tuple(ParentState(parent, controller, said) for parent, controller in found if controller)


def _speaker(world: World, parent: ParentReference, namespace: str) -> str:
    """In whose name it is said what becomes of a route at a parent; empty for parents that are not ours."""
    if (parent.group, parent.kind) == (GROUP, "Gateway"):
        gateway, proxy = world.find(Gateway, namespace, parent.name), world.ask(find_proxy, ProxyKey(namespace, parent.name))
        ours = gateway is not None and proxy is not None and proxy.kind is ProxyKind.GATEWAY
        return controller_of(world, gateway.spec.gateway_class_name) if gateway is not None and ours else ""
    return _CONTROLLERS["nodemesh"] if parent.kind in {"Service", "ServiceEntry"} else ""


def is_ours(item: GatewayClass) -> bool:
    """Whether the mesh answers for a class: by its name, and by whom it names."""
    return item.metadata.name in wire.GATEWAY_CLASSES | wire.WAYPOINT_CLASSES and item.spec.controller_name in _SPEAKERS


def with_problem(state: GatewayState, problem: str) -> GatewayState:
    """What is told of a Gateway for which the controller can't make what runs it: others may have."""
    placed = Said("Programmed", holds=True, reason="Programmed", message=problem)
    if not state.addresses:
        placed = Said("Programmed", holds=False, reason="NoResources", message=problem)
    return replace(state, conditions=tuple(placed if one.type == "Programmed" else one for one in state.conditions))


def route_state(world: World, key: ObjectKey) -> tuple[ParentState, ...]:
    """Of a route at each of its parents that are ours."""
    route = find_route(world, key)
    if route is None:
        return ()
    resolved = _resolved(world, key, route)
    found = []
    for parent in route.spec.parent_refs:
        where = parent.namespace or key.namespace
        controller = _speaker(world, parent, where)
        gateway = world.find(Gateway, where, parent.name) if parent.kind == "Gateway" else None
        if controller and gateway is not None:
            found.append(ParentState(parent, controller, (_accepted(world, key, route, parent, gateway), resolved)))
        elif controller and key.kind in {Kind.HTTP_ROUTE, Kind.GRPC_ROUTE}:
            found.append(ParentState(parent, controller, (_at_service(where, key), resolved)))
    return tuple(found)


def _addresses(world: World, gateway: Gateway) -> tuple[GatewayAddress, ...]:
    meta = gateway.metadata
    if gateway.spec.addresses:
        return gateway.spec.addresses
    service = world.find(Service, meta.namespace, meta.name)
    if service is None:
        return ()
    if service.spec.type == "LoadBalancer":
        given = service.status.load_balancer.ingress
        return tuple(GatewayAddress(one.ip) if one.ip else GatewayAddress(one.hostname, "Hostname") for one in given)
    return (GatewayAddress(world.settings.hostname(meta.name, meta.namespace), "Hostname"),)


def _why_nowhere(world: World, gateway: Gateway) -> str:
    if world.find(Service, gateway.metadata.namespace, gateway.metadata.name) is not None:
        return "its Service has no address of a load balancer yet"
    return "nothing says yet where it is reached"


def _listener(world: World, gateway: Gateway, listener: GatewayListener, missing: Mapping[Credential, str]) -> ListenerStatus:
    proxy = ProxyKey(gateway.metadata.namespace, gateway.metadata.name)
    server = next(one for one in world.ask(servers_of, proxy) if one.owner == gateway.key and one.name == listener.name)
    named = (found for name in server.named if (found := parse(name)) is not None)
    problem = server.problem or next((missing[one] for one in named if one in missing), "")
    served = not problem and any(server in port.servers for port in world.ask(ports_of, proxy))
    kinds = _kinds(listener)
    routes = {one.route for one in world.ask(attached_routes, server, kinds) if _meets(server, one.hostnames)}
    invalid = listener.allowed_routes.kinds and len(kinds) < len(listener.allowed_routes.kinds)
    references = Said("ResolvedRefs", holds=True, reason="ResolvedRefs")
    if problem:
        reason = "RefNotPermitted" if "ReferenceGrant" in problem else "InvalidCertificateRef"
        references = Said("ResolvedRefs", holds=False, reason=reason, message=problem)
    elif invalid:
        references = Said("ResolvedRefs", holds=False, reason="InvalidRouteKinds", message=f"{listener.protocol} does not take all of them")
    accepted = Said("Accepted", holds=True, reason="Accepted")
    if listener.protocol not in _KINDS:
        accepted = Said("Accepted", holds=False, reason="UnsupportedProtocol", message=f"{listener.protocol[:40]} is not served")
    elif not served and not problem:
        accepted = Said("Accepted", holds=False, reason="ProtocolConflict", message=f"port {listener.port} is served in another way")
    programmed = Said("Programmed", holds=served, reason="Programmed" if served else "Invalid")
    lost = accepted.reason == "ProtocolConflict"
    conflicted = Said("Conflicted", holds=lost, reason=accepted.reason if lost else "NoConflicts", message=accepted.message if lost else "")
    conditions = (accepted, references, programmed, conflicted)
    return ListenerStatus(listener.name, tuple(one.api_name for one in kinds), len(routes), conditions)


def _of_waypoint(listener: GatewayListener) -> ListenerStatus:
    """Routes hold at a waypoint by the services that they name; none attaches to its listener."""
    served = listener.protocol == HBONE
    accepted = Said("Accepted", holds=served, reason="Accepted" if served else "UnsupportedProtocol")
    programmed = Said("Programmed", holds=served, reason="Programmed" if served else "Invalid")
    return ListenerStatus(listener.name, (), 0, (accepted, Said("ResolvedRefs", holds=True, reason="ResolvedRefs"), programmed))


def _kinds(listener: GatewayListener) -> tuple[Kind, ...]:
    """Of routes, that the listener takes."""
    fit = _KINDS.get(listener.protocol, ())
    stated = listener.allowed_routes.kinds
    return tuple(one for one in fit if not stated or any((each.group, each.kind) == (GROUP, one.api_name) for each in stated))


def _accepted(world: World, key: ObjectKey, route: Route, parent: ParentReference, gateway: Gateway) -> Said:
    named = [one for one in gateway.spec.listeners if parent.section_name in {"", one.name} and parent.port in {0, one.port}]
    if not named:
        return Said("Accepted", holds=False, reason="NoMatchingParent", message="the Gateway has no such listener")
    allowed = [one for one in named if key.kind in _kinds(one) and admits(world, one, gateway.metadata.namespace, key)]
    if not allowed:
        return Said("Accepted", holds=False, reason="NotAllowedByListeners", message="no listener takes routes of this kind and namespace")
    hostnames = () if isinstance(route, TCPRoute) else route.spec.hostnames
    if not any(narrower(one.hostname or ANY, host) for one in allowed for host in hostnames or (ANY,)):
        return Said("Accepted", holds=False, reason="NoMatchingListenerHostname", message="no listener is for one of its hostnames")
    return Said("Accepted", holds=True, reason="Accepted")


def _at_service(namespace: str, key: ObjectKey) -> Said:
    if namespace != key.namespace:
        return Said("Accepted", holds=False, reason="NotAllowedByListeners", message="a Service takes routes of its own namespace")
    return Said("Accepted", holds=True, reason="Accepted")


def _meets(server: Server, hostnames: tuple[str, ...]) -> bool:
    return any(narrower(claim.host, host) for claim in server.claims for host in hostnames or (ANY,))


def _resolved(world: World, key: ObjectKey, route: Route) -> Said:
    layer = Layer.HTTP if isinstance(route, HTTPRoute | GRPCRoute) else Layer.TCP
    scope = Scope(ProxyKey(key.namespace, ""), 0, (), peers=False)
    for backend in backends_of(route):
        destination = backend_destination(world, key, backend)
        if isinstance(destination, Nowhere):
            return Said("ResolvedRefs", holds=False, reason=destination.reason, message=destination.why)
        problem = find_target(world, scope, key.namespace, destination, layer).problem
        if problem:
            return Said("ResolvedRefs", holds=False, reason="BackendNotFound", message=problem)
    return Said("ResolvedRefs", holds=True, reason="ResolvedRefs")


def backends_of(route: Route) -> Iterator[BackendReference | MirrorReference]:
    """All that a route may send requests to, mirrors among them."""
    for rule in route.spec.rules:
        yield from rule.backend_refs
    if isinstance(route, HTTPRoute | GRPCRoute):
        filters = (one for rule in route.spec.rules for one in rule.filters)
        yield from (one.request_mirror.backend_ref for one in filters if one.request_mirror is not None)


def find_route(world: World, key: ObjectKey) -> Route | None:
    """A route of any of the Gateway API's kinds."""
    match key.kind:
        case Kind.HTTP_ROUTE:
            return world.find(HTTPRoute, key.namespace, key.name)
        case Kind.GRPC_ROUTE:
            return world.find(GRPCRoute, key.namespace, key.name)
        case Kind.TLS_ROUTE:
            return world.find(TLSRoute, key.namespace, key.name)
        case Kind.TCP_ROUTE:
            return world.find(TCPRoute, key.namespace, key.name)
    return None
