"""Which VirtualService holds for a host at a place: the most specific name, then the oldest.

At waypoints the rules of a service are its own namespace's and the root namespace's alone: nobody else decides where its requests go.
"""

from msgspec import Struct

from control.envoy.routing.scope import exported, full_gateway, full_host
from control.envoy.world import World
from control.kinds import Kind, ObjectKey, VirtualService
from control.kinds.routing import MESH
from control.validation.routing_checks import covering


class Bound(Struct, frozen=True, order=True):
    """A rule that names a host, by its age among all."""

    age: int
    key: ObjectKey


def bound_hosts(world: World, gateway: str) -> dict[str, tuple[Bound, ...]]:
    """The rules bound to a gateway (or `mesh`), oldest first, by the hosts that they name."""
    found: dict[str, list[Bound]] = {}
    for age, service in enumerate(world.objects(VirtualService)):
        namespace = service.metadata.namespace
        gateways = {full_gateway(one, namespace) for one in service.spec.gateways} or {MESH}
        if gateway not in gateways:
            continue
        for host in service.spec.hosts:
            found.setdefault(full_host(host, namespace, world.settings.domain), []).append(Bound(age, service.key))
    return {host: tuple(bound) for host, bound in found.items()}


def hosts_of(world: World, gateway: str, host: str) -> tuple[Bound, ...]:
    """The rules that name exactly this host."""
    return world.ask(bound_hosts, gateway).get(host, ())


def mesh_rules(world: World, hosts: tuple[str, ...], namespace: str, viewer: str) -> tuple[ObjectKey, ...]:
    """The rules that name a service by one of its names; the first one holds, at a waypoint in the namespace `viewer`."""
    ranked: dict[ObjectKey, tuple[int, int]] = {}
    for host in hosts:
        for rank, name in enumerate(covering(host)):
            for bound in world.ask(hosts_of, MESH, name):
                if world.ask(_holds, bound.key, namespace, viewer):
                    ranked[bound.key] = min(ranked.get(bound.key, (rank, bound.age)), (rank, bound.age))
    return tuple(sorted(ranked, key=lambda key: ranked[key]))


def _holds(world: World, key: ObjectKey, namespace: str, viewer: str) -> bool:
    if key.kind is not Kind.VIRTUAL_SERVICE or key.namespace not in {namespace, world.settings.root_namespace}:
        return False
    service = world.find(VirtualService, key.namespace, key.name)
    return service is not None and exported(service.spec.export_to, key.namespace, viewer)
