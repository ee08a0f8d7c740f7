"""By which rules requests come to a service from gateways: VirtualServices that are bound there, and the Gateway API's routes."""

from collections.abc import Iterator

from control.analysis.references import destinations
from control.envoy.catalogue import CatalogService
from control.envoy.gateways.attached import routes_by_gateway
from control.envoy.gateways.status import backends_of, find_route
from control.envoy.routing.api_rules import backend_destination
from control.envoy.routing.delegation import with_delegates
from control.envoy.routing.destinations import find_service
from control.envoy.routing.scope import full_gateway, full_host
from control.envoy.world import World
from control.kinds import ObjectKey, VirtualService
from control.kinds.routing import MESH, Destination


def exposed(world: World, service: CatalogService) -> Iterator[str]:
    """A line for each, with the gateways and the hosts."""
    for rule in world.objects(VirtualService):
        gateways = [full_gateway(one, rule.metadata.namespace) for one in rule.spec.gateways if one != MESH]
        if gateways and any(_is(world, service, namespace, one) for namespace, one in _destinations(world, rule)):
            yield f"{rule.key} at {', '.join(gateways)}, for {', '.join(rule.spec.hosts)}"
    for gateway, attached in world.ask(routes_by_gateway).items():
        for key, hostnames, _ in attached:
            if _leads_to(world, service, key):
                yield f"{key} at {gateway.namespace}/{gateway.name}, for {', '.join(hostnames) or 'all hosts'}"


def _destinations(world: World, rule: VirtualService) -> Iterator[tuple[str, Destination]]:
    """Each with the namespace in whose words it is, those of delegates among them."""
    yield from ((rule.metadata.namespace, one) for _, one in destinations(rule))
    for owned in with_delegates(world, rule).routes:
        yield from ((owned.owner.namespace, one.destination) for one in owned.route.route)


def _is(world: World, service: CatalogService, namespace: str, destination: Destination) -> bool:
    found = find_service(world, full_host(destination.host, namespace, world.settings.domain), namespace)
    return found is not None and found.key == service.key


def _leads_to(world: World, service: CatalogService, key: ObjectKey) -> bool:
    route = find_route(world, key)
    backends = backends_of(route) if route is not None else iter(())
    return any(_is(world, service, key.namespace, backend_destination(world, key, one)) for one in backends)
