"""Hosts and subsets that rules name: whether they are there, and whether anything is behind them."""

from collections.abc import Iterator

from control.analysis.message import Level, Message, about
from control.envoy.catalogue import CatalogService
from control.envoy.world import World
from control.kinds import DestinationRule, ObjectKey, VirtualService
from control.kinds.routing import Destination


def host_key(host: str, namespace: str, domain: str) -> str:
    """The full name of a host as an object of `namespace` means it."""
    return f"{host}.{namespace}.svc.{domain}" if "." not in host and host != "*" else host


def services_of(world: World, host: str, namespace: str) -> list[CatalogService]:
    """The services that a rule of `namespace` means by a host; those that it can't see are not among them."""
    full = host_key(host, namespace, world.settings.domain)
    found = (world.service(key) for key in world.services_named(full))
    return [one for one in found if one is not None and one.visible_to(namespace)]


def missing_hosts(world: World) -> Iterator[Message]:
    """Destinations of routes that lead nowhere, and rules for hosts that nobody has."""
    for service in world.objects(VirtualService):
        for what, destination in destinations(service):
            yield from _destination_messages(world, service, what, destination)
    for rule in world.objects(DestinationRule):
        namespace, host = rule.metadata.namespace, rule.spec.host
        if "*" not in host and not services_of(world, host, namespace):
            yield _message(
                rule.key, "IST0101", f"there is no service {host_key(host, namespace, world.settings.domain)}", "correct spec.host"
            )
        yield from _empty_subsets(world, rule)


def destinations(service: VirtualService) -> Iterator[tuple[str, Destination]]:
    """Every destination of a VirtualService, and where in it."""
    for index, route in enumerate(service.spec.http):
        for one in route.route:
            yield f"http[{index}].route", one.destination
        for mirrored in (*((route.mirror,) if route.mirror else ()), *(mirror.destination for mirror in route.mirrors)):
            yield f"http[{index}].mirror", mirrored
    l4_routes = [(f"tls[{index}]", tls.route) for index, tls in enumerate(service.spec.tls)]
    l4_routes += [(f"tcp[{index}]", tcp.route) for index, tcp in enumerate(service.spec.tcp)]
    for place, targets in l4_routes:
        for target in targets:
            yield f"{place}.route", target.destination


def _destination_messages(world: World, service: VirtualService, what: str, destination: Destination) -> Iterator[Message]:
    namespace = service.metadata.namespace
    full = host_key(destination.host, namespace, world.settings.domain)
    found = services_of(world, destination.host, namespace)
    if not found:
        yield _message(service.key, "IST0101", f"{what}: there is no service {full}", "requests there are answered 503")
        return
    if destination.port is not None and not any(one.port(destination.port.number) for one in found):
        ports = ", ".join(str(port.number) for port in found[0].ports)
        yield _message(service.key, "IST0101", f"{what}: {full} has no port {destination.port.number}", f"it has {ports or 'none'}")
    if destination.subset and not any(rule.subset(destination.subset) for rule in rules_for(world, full, namespace)):
        hint = "a DestinationRule for the host says which subsets there are"
        yield _message(service.key, "IST0101", f"{what}: {full} has no subset {destination.subset}", hint)


def rules_for(world: World, host: str, namespace: str) -> list[DestinationRule]:
    """The rules for a host that hold for callers of a namespace, or are its service's own."""
    domain = world.settings.domain
    found = [rule for rule in world.objects(DestinationRule) if host_key(rule.spec.host, rule.metadata.namespace, domain) == host]
    homes = {namespace, world.settings.root_namespace, *(one.namespace for one in services_of(world, host, namespace))}
    return [rule for rule in found if rule.metadata.namespace in homes]


def _empty_subsets(world: World, rule: DestinationRule) -> Iterator[Message]:
    services = services_of(world, rule.spec.host, rule.metadata.namespace)
    endpoints = [endpoint for service in services for endpoint in world.endpoints(service.key)]
    for subset in rule.spec.subsets if endpoints else ():
        if not any(subset.labels.items() <= endpoint.labels.items() for endpoint in endpoints):
            wanted = ", ".join(f"{key}={value}" for key, value in sorted(subset.labels.items()))
            yield _message(rule.key, "NM0002", f"subset {subset.name} ({wanted}) has no endpoint", "requests there are answered 503")


def _message(key: ObjectKey, code: str, what: str, hint: str) -> Message:
    level = Level.ERROR if code == "IST0101" else Level.WARNING
    return about(key, code, level, what, hint)
