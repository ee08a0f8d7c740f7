"""What translators see of the mesh: each look is noted, so that what was made from it is made again when it changes.

A translator is a pure function `(world, ...) -> value`. It asks other translators through `world.ask(translator, ...)`, which keeps
their answers, and looks at the mesh through the other methods alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, TypeVarTuple

from msgspec import Struct

from control.envoy.catalogue import CatalogService, Endpoint, catalog_service, endpoint
from control.envoy.incremental import Computation, Held
from control.kinds import Kind, MeshObject, ObjectKey
from control.model.derivation import ADDRESS
from control.model.labels import Labels, workload_labels
from control.model.mesh import Batch, Mesh
from control.model.settings import MeshSettings
from control.model.waypoints import Waypoint
from meshapi.trust import Revocation
from meshapi.workload import GatewayAddress, Service, ServiceKey, Workload, WorkloadUID

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
O = TypeVar("O", bound=MeshObject)  # noqa: E741 - an object of one kind
Input = tuple[Callable[[Any], object], str | tuple[str, str]]
UNLISTED = frozenset({Kind.POD, Kind.NODE, Kind.ENDPOINT_SLICE, Kind.SERVICE, Kind.SERVICE_ENTRY, Kind.WORKLOAD_ENTRY})
"""Kinds of which there are thousands: they are seen as services and endpoints, never as a list of all."""


class LabelledWorkload(Struct, frozen=True):
    """A workload with the labels of its object."""

    workload: Workload
    labels: Labels


class Distrusted(Struct, frozen=True):
    """Whom to trust no more: certificates that are revoked, and roots (fingerprints) that are gone."""

    revocations: tuple[Revocation, ...] = ()
    former_roots: tuple[str, ...] = ()


class World:
    """Follows a mesh. Values that it gives are immutable, or shared and not to be changed (Envoy's messages)."""

    def __init__(self, mesh: Mesh) -> None:
        self.settings: MeshSettings = mesh.settings
        self._mesh = mesh
        self._computation = Computation()
        self._services: dict[str, set[ServiceKey]] = {}
        """By hostname, and by what waypoint they are bound to."""
        self._workloads: dict[str, set[WorkloadUID]] = {}
        """By what waypoint they are bound to."""
        self._known: dict[str, Workload | Service] = {}
        """What was filed, so that it can be taken out again."""
        self._labels: dict[WorkloadUID, Labels] = {}
        """Of all workloads."""
        self._by_kind: dict[Kind, set[ObjectKey]] = {}
        self._distrusted = Distrusted()
        self._stand_ins: Mapping[ObjectKey, MeshObject | None] = {}
        for name in mesh.names(ADDRESS):
            self._file(name)
        for record in mesh.records.values():
            if record.object is not None:
                self._list(record.object.key)

    # ---- what translators ask

    def ask(self, function: Callable[["World", *Ts], T], *args: *Ts) -> T:
        """The answer of another translator, kept until something that it looked at changes."""
        return self._computation.ask(function, self, *args)

    def service(self, key: ServiceKey) -> CatalogService | None:
        """A service by `namespace/hostname`."""
        return self._computation.ask(self._load_service, key)

    def services_named(self, hostname: str) -> tuple[ServiceKey, ...]:
        """The services with a hostname: several namespaces may define one."""
        return self._computation.ask(self._load_services, hostname)

    def endpoints(self, key: ServiceKey) -> tuple[Endpoint, ...]:
        """The workloads of a service, in the order of their uids."""
        return self._computation.ask(self._load_endpoints, key)

    def waypoint(self, gateway: ObjectKey) -> Waypoint | None:
        """A Gateway as a waypoint, if it is one."""
        return self._computation.ask(self._load_waypoint, gateway)

    def bound_services(self, waypoint: GatewayAddress) -> tuple[ServiceKey, ...]:
        """The services whose waypoint is at an address."""
        return self._computation.ask(self._load_services, waypoint_name(waypoint))

    def bound_workloads(self, waypoint: GatewayAddress) -> tuple[Workload, ...]:
        """The workloads whose waypoint is at an address, in the order of their uids."""
        return self._computation.ask(self._load_workloads, waypoint_name(waypoint))

    def labelled(self, label: tuple[str, str]) -> tuple[LabelledWorkload, ...]:
        """The workloads with a label, in the order of their uids."""
        return self._computation.ask(self._load_labelled, label)

    def find(self, kind: type[O], namespace: str, name: str) -> O | None:
        """An object in force."""
        found = self._computation.ask(self._load_object, ObjectKey(kind.kind_of, namespace, name))
        return found if isinstance(found, kind) else None

    def objects(self, kind: type[O]) -> tuple[O, ...]:
        """All objects of a kind in force, oldest first; for the kinds that configure, of which there are few enough to look at all."""
        if kind.kind_of in UNLISTED:
            raise TypeError(f"{kind.kind_of} is looked at one by one")
        found = self._computation.ask(self._load_objects, kind.kind_of)
        return tuple(one for one in found if isinstance(one, kind))

    def distrusted(self) -> Distrusted:
        """Of workloads."""
        return self._computation.ask(self._load_distrusted)

    def revocations(self) -> tuple[Revocation, ...]:
        """What is revoked of the workloads' certificates."""
        return self.distrusted().revocations

    # ---- what follows the answers

    def hold(self, function: Callable[["World", *Ts], object], *args: *Ts) -> Held:
        """Keeps an answer until `release`."""
        return self._computation.hold(function, self, *args)

    def release(self, function: Callable[["World", *Ts], object], *args: *Ts) -> None:
        self._computation.release(function, self, *args)

    @property
    def computed(self) -> int:
        """How many answers were computed so far."""
        return self._computation.computed

    @property
    def kept(self) -> int:
        """How many answers are kept."""
        return self._computation.size

    def apply(self, batch: Batch) -> None:
        """The mesh has changed."""
        for key in batch.objects:
            self._list(key)
            self._computation.touch(self._load_object, key)
        for kind in {key.kind for key in batch.objects}:
            self._computation.touch(self._load_objects, kind)
        # What an object says beyond its resource (labels, to whom it is exported) changes with the object alone.
        names = {name for key in batch.objects for name in self._mesh.addresses_of(key)}.union(batch.resources.get(ADDRESS, ()))
        touched = {one for name in names for one in self._file(name)}
        for function, name in touched:
            self._computation.touch(function, name)
        # What a waypoint is depends on its service and its pods, too. There are few, and most are as they were.
        for key in self._by_kind.get(Kind.GATEWAY, ()):
            self._computation.touch(self._load_waypoint, key)

    def distrust(self, distrusted: Distrusted) -> None:
        """This is what is trusted no more now, all of it."""
        self._distrusted = distrusted
        self._computation.touch(self._load_distrusted)

    def stand_in(self, stand_ins: Mapping[ObjectKey, MeshObject | None]) -> None:
        """In the place of these objects there are others, or none."""
        before, self._stand_ins = self._stand_ins, stand_ins
        for key in before.keys() | stand_ins.keys():
            self._computation.touch(self._load_object, key)
            self._computation.touch(self._load_objects, key.kind)

    # ---- inputs: what stands behind the questions

    def _load_distrusted(self) -> Distrusted:
        return self._distrusted

    def _load_service(self, key: ServiceKey) -> CatalogService | None:
        match self._mesh.address(key):
            case (Service() as service, item):
                return catalog_service(service, item)
        return None

    def _load_services(self, of: str) -> tuple[ServiceKey, ...]:
        return tuple(sorted(self._services.get(of, ())))

    def _load_endpoints(self, key: ServiceKey) -> tuple[Endpoint, ...]:
        found = []
        for name in self._mesh.members(ADDRESS, key):
            match self._mesh.address(name):
                case (Workload() as workload, item):
                    found.append(endpoint(workload, item, key))
        return tuple(one for one in found if one is not None)

    def _load_workloads(self, waypoint: str) -> tuple[Workload, ...]:
        found = (self._mesh.address(uid) for uid in sorted(self._workloads.get(waypoint, ())))
        return tuple(one[0] for one in found if one is not None and isinstance(one[0], Workload))

    def _load_labelled(self, label: tuple[str, str]) -> tuple[LabelledWorkload, ...]:
        name, value = label
        uids = sorted(uid for uid, labels in self._labels.items() if labels.get(name) == value)
        found = ((self._known[uid], self._labels[uid]) for uid in uids)
        return tuple(LabelledWorkload(one, labels) for one, labels in found if isinstance(one, Workload))

    def _load_waypoint(self, gateway: ObjectKey) -> Waypoint | None:
        return self._mesh.store.waypoints.waypoint(gateway)

    def _load_object(self, key: ObjectKey) -> MeshObject | None:
        return self._stand_ins[key] if key in self._stand_ins else self._mesh.store.get(key)

    def _load_objects(self, kind: Kind) -> tuple[MeshObject, ...]:
        found = (self._load_object(key) for key in self._by_kind.get(kind, ()))
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.metadata.age_rank))

    # ---- indexes

    def _list(self, key: ObjectKey) -> None:
        if key.kind in UNLISTED:
            return
        if self._mesh.store.get(key) is not None:
            self._by_kind.setdefault(key.kind, set()).add(key)
        else:
            self._by_kind.get(key.kind, set()).discard(key)

    def _file(self, name: str) -> list[Input]:
        """Takes a changed address out of the indexes as it was, and in as it is; returns what was made of it."""
        inputs: list[Input] = []
        found = self._mesh.address(name)
        before, now = self._known.pop(name, None), found[0] if found else None
        if now is not None:
            self._known[name] = now
        for value, add in ((before, False), (now, True)):
            match value:
                case Service():
                    for place in (value.hostname, *_waypoint_names(value.waypoint)):
                        _move(self._services, place, value.key, add=add)
                        inputs.append((self._load_services, place))
                    inputs.append((self._load_service, value.key))
                case Workload():
                    for place in _waypoint_names(value.waypoint):
                        _move(self._workloads, place, value.uid, add=add)
                        inputs.append((self._load_workloads, place))
                    inputs += [(self._load_endpoints, service) for service in value.services]
                    inputs += [(self._load_labelled, label) for label in self._labels.pop(value.uid, {}).items()]
        match found:
            case (Workload() as workload, item):
                self._labels[workload.uid] = workload_labels(item)
                inputs += [(self._load_labelled, label) for label in self._labels[workload.uid].items()]
        return inputs


def waypoint_name(waypoint: GatewayAddress) -> str:
    """What a waypoint goes by here: its service, or its address."""
    if waypoint.service is not None:
        return f"waypoint {waypoint.service}"
    return f"waypoint {waypoint.address.key}" if waypoint.address is not None else "waypoint"


def _waypoint_names(waypoint: GatewayAddress | None) -> tuple[str, ...]:
    return (waypoint_name(waypoint),) if waypoint is not None else ()


def _move(index: dict[str, set[T]], place: str, item: T, *, add: bool) -> None:
    if add:
        index.setdefault(place, set()).add(item)
        return
    index[place].discard(item)
    if not index[place]:
        del index[place]
