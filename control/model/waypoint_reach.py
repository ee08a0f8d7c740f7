"""Who is behind a waypoint, and at which ports: what guards and the words about them are made of."""

from control.kinds import Kind, ObjectKey, Pod, Service, ServiceEntry, WorkloadEntry
from control.model.labels import workload_labels
from control.model.services import entry_ports, pod_ports, slice_ports
from control.model.settings import MeshSettings
from control.model.store import Store
from control.model.waypoints import SERVICE_KINDS, Waypoint
from control.model.workloads import entry_workload, pod_workload
from meshapi.workload import TunnelProtocol


def behind(store: Store, target: ObjectKey) -> set[ObjectKey]:
    """The objects whose workloads serve what a policy for waypoints names."""
    if target.kind is Kind.GATEWAY:
        return set().union(*(behind(store, one) for one in store.waypoints.bound_to(target)))
    return store.served_by(target) if target.kind in SERVICE_KINDS else {target}


def gates_of(store: Store, key: ObjectKey) -> set[ObjectKey]:
    """The waypoints that an object's workload is reached through."""
    item = store.get(key)
    if item is None:
        return set()
    ways = [store.waypoints.of(key), *(store.waypoints.of(one.key) for one in store.serving(key, workload_labels(item)))]
    return {way.binding.waypoint.key for way in ways if way.binding.waypoint is not None}


def rivals(store: Store, service: ObjectKey) -> dict[ObjectKey, Waypoint]:
    """Guarded services that share workloads with this one, and their waypoints, which are others than its own."""
    own = store.waypoints.of(service).binding.waypoint
    held = {one: store.waypoints.of(one) for one in store.beside(service)}
    gates = {one: bound.binding.waypoint for one, bound in held.items() if bound.guarded}
    return {one: gate for one, gate in sorted(gates.items()) if gate is not None and own is not None and gate.key != own.key}


def admitted(store: Store, service: Service | ServiceEntry) -> dict[int, tuple[str, ...]]:
    """Who is let in by the guard of a service, by port: its waypoint, and at ports that it shares with another guarded service of the same
    workloads that one's waypoint, too, whose own policies hold there."""
    own = store.waypoints.of(service.key).binding.waypoint
    found = {port: set(own.principals if own is not None else ()) for port in guard_ports(store, service)}
    for key, gate in rivals(store, service.key).items():
        rival = store.get(key)
        for port in guard_ports(store, rival) if isinstance(rival, Service | ServiceEntry) else ():
            if port in found:
                found[port].update(gate.principals)
    return {port: tuple(sorted(principals)) for port, principals in found.items()}


def without_tunnels(store: Store, target: ObjectKey, settings: MeshSettings) -> int:
    """How many of the workloads behind a target are called in plaintext: they are not in the mesh, or want it so."""
    found = 0
    for key in behind(store, target):
        match store.get(key):
            case Pod() as pod:
                workload = pod_workload(pod, store.surroundings(pod), settings)
            case WorkloadEntry() as entry:
                workload = entry_workload(entry, store.surroundings(entry), settings)
            case _:
                continue
        found += workload is not None and workload.tunnel_protocol is not TunnelProtocol.HBONE
    return found


def guard_ports(store: Store, service: Service | ServiceEntry) -> tuple[int, ...]:
    """The ports on which a service's workloads serve it."""
    bound = store.as_bound(service)
    ports = {port.target for port in bound.ports if port.target}
    for key in store.served_by(service.key):
        match store.get(key):
            case Pod() as pod:
                ports |= {port.target for port in pod_ports(pod, bound)}
            case WorkloadEntry() as entry:
                ports |= {port.target for port in entry_ports(entry.spec, bound)}
    ports |= {port.target for one in store.slices(service.key) for port in slice_ports(one, bound)}
    return tuple(sorted(ports))
