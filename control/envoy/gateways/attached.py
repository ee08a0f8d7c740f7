"""Which of the Gateway API's routes are attached to a listener: those that name it, as far as it takes them."""

from msgspec import Struct

from control.envoy.gateways.servers import Server
from control.envoy.world import World
from control.kinds import Gateway, GRPCRoute, HTTPRoute, Kind, Namespace, ObjectKey, TCPRoute, TLSRoute
from control.kinds.gateway import GROUP, GatewayListener
from control.kinds.gateway_routes import ParentReference
from control.model.waypoints import label_selector_matches

Route = HTTPRoute | GRPCRoute | TLSRoute | TCPRoute


class AttachedRoute(Struct, frozen=True):
    """A route, and the hosts that it is for; none = all."""

    route: ObjectKey
    hostnames: tuple[str, ...] = ()


def attached_routes(world: World, server: Server, kinds: tuple[Kind, ...]) -> tuple[AttachedRoute, ...]:
    """Those of these kinds at a listener of the Gateway API, oldest first."""
    if server.owner.kind is not Kind.GATEWAY:
        return ()
    gateway = world.find(Gateway, server.owner.namespace, server.owner.name)
    listener = next((one for one in gateway.spec.listeners if one.name == server.name), None) if gateway is not None else None
    if listener is None:
        return ()
    found = world.ask(routes_by_gateway).get(server.owner, ())
    return tuple(
        AttachedRoute(key, hostnames)
        for key, hostnames, parent in found
        if key.kind in kinds and _names(parent, listener) and admits(world, listener, server.owner.namespace, key)
    )


def routes_by_gateway(world: World) -> dict[ObjectKey, tuple[tuple[ObjectKey, tuple[str, ...], ParentReference], ...]]:
    """Each route with its hosts and the reference by which it names a Gateway."""
    routes: list[Route] = [*world.objects(HTTPRoute), *world.objects(GRPCRoute), *world.objects(TLSRoute), *world.objects(TCPRoute)]
    found: dict[ObjectKey, list[tuple[ObjectKey, tuple[str, ...], ParentReference]]] = {}
    for route in sorted(routes, key=lambda one: one.metadata.age_rank):
        hostnames = () if isinstance(route, TCPRoute) else route.spec.hostnames
        for parent in route.spec.parent_refs:
            if (parent.group, parent.kind) == (GROUP, "Gateway"):
                key = ObjectKey(Kind.GATEWAY, parent.namespace or route.metadata.namespace, parent.name)
                found.setdefault(key, []).append((route.key, hostnames, parent))
    return {key: tuple(routes) for key, routes in found.items()}


def admits(world: World, listener: GatewayListener, own: str, route: ObjectKey) -> bool:
    """Whether a listener takes routes of this kind, of this namespace."""
    allowed = listener.allowed_routes
    if allowed.kinds and not any((one.group, one.kind) == (GROUP, route.kind.api_name) for one in allowed.kinds):
        return False
    if allowed.namespaces.origin == "Selector":
        namespace = world.find(Namespace, "", route.namespace)
        labels = namespace.metadata.labels if namespace is not None else {}
        return allowed.namespaces.selector is not None and label_selector_matches(allowed.namespaces.selector, labels)
    return allowed.namespaces.origin == "All" or route.namespace == own


def _names(parent: ParentReference, listener: GatewayListener) -> bool:
    return parent.section_name in {"", listener.name} and parent.port in {0, listener.port}
