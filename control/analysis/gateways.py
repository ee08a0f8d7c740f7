"""Gateways that nobody serves, rules and routes for gateways that are not there, and hosts that a gateway is not for."""

from collections.abc import Iterator

from control.analysis.message import Level, Message, about
from control.envoy.gateways.attached import Route
from control.envoy.gateways.hosts import narrower
from control.envoy.gateways.listeners import port_conflicts
from control.envoy.gateways.servers import servers_of
from control.envoy.gateways.status import route_state
from control.envoy.proxies import all_proxies
from control.envoy.routing.scope import full_gateway, full_host
from control.envoy.world import World
from control.kinds import Gateway, GRPCRoute, HTTPRoute, IstioGateway, ObjectKey, TCPRoute, TLSRoute, VirtualService
from control.kinds.gateway import GROUP
from control.kinds.routing import MESH
from control.validation.istio_gateway_checks import split_host

_NO_REFERENCE = {"BackendNotFound", "RefNotPermitted", "InvalidKind"}


def unserved(world: World) -> Iterator[Message]:
    """Istio's Gateways whose selector selects none that runs."""
    served = {one.owner for proxy in world.ask(all_proxies) for one in world.ask(servers_of, proxy)}
    for gateway in world.objects(IstioGateway):
        if gateway.key not in served:
            labels = ", ".join(f"{name}={value}" for name, value in sorted(gateway.spec.selector.items())) or "nothing"
            hint = "correct the selector, or add a Gateway of class istio or nodemesh with these labels"
            yield _missing(gateway.key, f"no gateway has the labels that it selects: {labels}", hint)


def conflicts(world: World) -> Iterator[Message]:
    """Ports and names that several servers of one gateway want: the first has them."""
    for proxy in world.ask(all_proxies):
        for problem in world.ask(port_conflicts, proxy):
            hint = f"take another port or name: at the gateway {proxy} the first one holds"
            yield about(problem.object, "IST0145", Level.ERROR, problem.what, hint)


def bindings(world: World) -> Iterator[Message]:
    """VirtualServices at gateways."""
    istio = {f"{one.metadata.namespace}/{one.metadata.name}": one for one in world.objects(IstioGateway)}
    known = {*istio, *(f"{one.metadata.namespace}/{one.metadata.name}" for one in world.objects(Gateway))}
    for service in world.objects(VirtualService):
        for stated in service.spec.gateways:
            name = full_gateway(stated, service.metadata.namespace)
            if name == MESH:
                continue
            if name not in known:
                yield _missing(service.key, f"there is no Gateway {name}", "correct spec.gateways")
            elif name in istio and not _meets(world, service, istio[name]):
                what = f"none of its hosts is one of Gateway {name}"
                yield about(service.key, "IST0132", Level.WARNING, what, "add the host to one of the Gateway's servers")


def _meets(world: World, service: VirtualService, gateway: IstioGateway) -> bool:
    namespace = service.metadata.namespace
    own = [full_host(host, namespace, world.settings.domain) for host in service.spec.hosts]
    return any(narrower(host, one) for server in gateway.spec.servers for _, host in map(split_host, server.hosts) for one in own)


def routes(world: World) -> Iterator[Message]:
    """The Gateway API's routes: what they hold at, and where they lead."""
    found: list[Route] = [*world.objects(HTTPRoute), *world.objects(GRPCRoute), *world.objects(TLSRoute), *world.objects(TCPRoute)]
    for route in found:
        for parent in route.spec.parent_refs:
            where = parent.namespace or route.metadata.namespace
            if (parent.group, parent.kind) == (GROUP, "Gateway") and world.find(Gateway, where, parent.name) is None:
                yield _missing(route.key, f"there is no Gateway {where}/{parent.name}", "correct spec.parentRefs")
        yield from _conditions(world, route.key)


def _conditions(world: World, key: ObjectKey) -> Iterator[Message]:
    """What would stand in its status, each once: it is the same at each parent."""
    failed = {said: None for state in world.ask(route_state, key) for said in state.conditions if not said.holds}
    for said in failed:
        code, level = ("IST0101", Level.ERROR) if said.reason in _NO_REFERENCE else ("NM0001", Level.WARNING)
        yield about(key, code, level, said.message or said.reason, f"its status has {said.type} False, {said.reason}")


def _missing(key: ObjectKey, what: str, hint: str) -> Message:
    return about(key, "IST0101", Level.ERROR, what, hint)
