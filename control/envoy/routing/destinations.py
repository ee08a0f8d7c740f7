"""From the host, port and subset that a rule names to the cluster that serves them."""

from control.envoy.catalogue import CatalogService
from control.envoy.destinations.rules import subset_choice
from control.envoy.naming import ClusterRef, Layer
from control.envoy.routing.api_model import Nowhere
from control.envoy.routing.scope import Scope, Target, full_host
from control.envoy.world import World
from control.kinds.routing import Destination
from control.validation.routing_checks import covering
from meshapi.workload import ServiceKey


def find_target(world: World, scope: Scope, namespace: str, destination: Destination, layer: Layer) -> Target:
    """Where a destination of a rule of this namespace leads."""
    if isinstance(destination, Nowhere):
        return _nowhere(destination.host, destination, destination.why)
    host = full_host(destination.host, namespace, world.settings.domain)
    service = find_service(world, host, namespace)
    if service is None:
        return _nowhere(host, destination, f"there is no service {host} that namespace {namespace} may name")
    port = _port(service, destination, scope)
    if service.port(port) is None:
        return _nowhere(host, destination, f"{host} has no port {port}")
    ref = ClusterRef(service.key, port, layer, destination.subset)
    if world.ask(subset_choice, scope.proxy, ref) is None:
        return _nowhere(host, destination, f"no DestinationRule for {host} has a subset {destination.subset}")
    return Target(ref.name, ref)


def find_service(world: World, host: str, namespace: str) -> CatalogService | None:
    """The service that rules of a namespace mean by a whole host name: its own before others' that are for it."""
    for name in covering(host):
        if name == "*":
            return None
        found = world.ask(_visible, name, namespace)
        if found:
            return world.service(found[0])
    return None


def _visible(world: World, host: str, namespace: str) -> tuple[ServiceKey, ...]:
    services = [one for one in (world.service(key) for key in world.services_named(host)) if one is not None and one.visible_to(namespace)]
    return tuple(one.key for one in sorted(services, key=lambda one: (one.namespace != namespace, one.key)))


def _port(service: CatalogService, destination: Destination, scope: Scope) -> int:
    if destination.port is not None:
        return destination.port.number
    return service.ports[0].number if len(service.ports) == 1 else scope.port


def _nowhere(host: str, destination: Destination, problem: str) -> Target:
    """A cluster that does not exist: its requests get 503, and the others of the rule what is theirs."""
    port = destination.port.number if destination.port is not None else 0
    return Target(f"missing|{port}|{destination.subset}|{host}", None, problem)
