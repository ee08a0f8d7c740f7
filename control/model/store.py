"""All objects in force, indexed so that a change finds what depends on it, and a resource finds what it depends on."""

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from control.kinds import (
    AuthorizationPolicy,
    EndpointSlice,
    Kind,
    MeshObject,
    Namespace,
    Node,
    ObjectKey,
    PeerAuthentication,
    Pod,
    Service,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
)
from control.kinds.core import Endpoint
from control.model import vm
from control.model.edge_store import EdgeStore
from control.model.handed_out import HandedOut
from control.model.labels import LabelIndex, Labels, SelectorIndex, unfile, workload_labels
from control.model.listed_pods import ListedPods
from control.model.policy_store import PolicyStore
from control.model.services import (
    BoundService,
    bound_entry,
    bound_service,
    entry_services,
    needs_addresses,
)
from control.model.settings import MeshSettings
from control.model.waypoint_guards import guard_key
from control.model.waypoint_store import WaypointStore
from control.model.waypoints import SERVICE_KINDS
from control.model.workloads import Surroundings, node_locality
from meshapi import wire
from meshapi.vm import GroupName

_NO_ORDER = (False, "", "", "")
O = TypeVar("O", bound=MeshObject)  # noqa: E741 - an object of one kind


class Store:
    """`put` replaces an object and returns the keys of all objects whose resources may differ now, its own among them."""

    def __init__(self, settings: MeshSettings) -> None:
        self._settings = settings
        self._objects: dict[ObjectKey, MeshObject] = {}
        self._workloads = LabelIndex()
        self.handed_out = HandedOut()
        self.policies = PolicyStore(settings.root_namespace, self._workloads)
        self._listed = ListedPods()
        self.waypoints = WaypointStore(settings, self._objects, self._workloads)
        self._services = SelectorIndex()
        self.edges = EdgeStore(settings, self._objects, self._workloads)
        self._pods_by_node: dict[str, set[ObjectKey]] = {}
        self._slices_by_service: dict[ObjectKey, set[ObjectKey]] = {}
        self._slices_by_pod: dict[ObjectKey, set[ObjectKey]] = {}
        self._placed: Counter[tuple[str, str, str]] = Counter()
        """How many live pods there are by node, namespace and service account."""
        self._registered: dict[str, set[ObjectKey]] = {}
        """The entries of machines that have registered, by their nodes."""

    def get(self, key: ObjectKey) -> MeshObject | None:
        return self._objects.get(key)

    def find(self, kind: type[O], namespace: str, name: str) -> O | None:
        """An object by kind and name."""
        found = self._objects.get(ObjectKey(kind.kind_of, namespace, name))
        return found if isinstance(found, kind) else None

    def placed(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a live pod with this service account is on this node."""
        return self._placed[(node, namespace, service_account)] > 0

    def group(self, name: GroupName) -> WorkloadGroup | None:
        """A group that machines may join; None for one that is gone, or going."""
        group = self.find(WorkloadGroup, name.namespace, name.name)
        return group if group is not None and not group.metadata.deletion_timestamp else None

    def registered(self, node: str) -> tuple[WorkloadEntry, ...]:
        """The entries of a machine."""
        found = (self._objects[key] for key in sorted(self._registered.get(node, ())))
        return tuple(one for one in found if isinstance(one, WorkloadEntry))

    def registrations(self) -> tuple[WorkloadEntry, ...]:
        """The entries of all machines."""
        return tuple(entry for node in sorted(self._registered) for entry in self.registered(node))

    def selected(self, namespace: str, selector: Labels) -> set[ObjectKey]:
        """The workload objects that a selector selects."""
        return self._workloads.select(namespace, selector)

    def put(self, key: ObjectKey, new: MeshObject | None) -> set[ObjectKey]:
        """Replaces an object; None removes it."""
        old = self._objects.get(key)
        parted = self._beside(_services_of(key, old))
        if new is not None:
            self._objects[key] = new
        else:
            self._objects.pop(key, None)
        affected = {key} | self._reindex(key, old, new)
        self._listed.put(key, old, new)
        self.edges.put(key, new)
        touched = self.waypoints.put(key, old, new)
        workloads = (self.served_by(one) for one in touched.reguarded)
        beside = self._beside(_services_of(key, new) | {one for one in touched.changed if one.kind in SERVICE_KINDS})
        rivals = {one for one in parted | beside if self.waypoints.of(one).guarded}
        return affected.union(touched.changed, self._guards_with_ports_of(old, new), rivals, *workloads)

    def surroundings(self, item: Pod | WorkloadEntry | ServiceEntry) -> Surroundings:
        """What the workloads of a pod or an entry depend on beside it."""
        key, labels = item.key, workload_labels(item)
        policies, peer = self.policies.of_workload(key.namespace, labels)
        serving = [item] if isinstance(item, ServiceEntry) else self.serving(key, labels)
        services = tuple(self.as_bound(one) for one in serving)
        waypoint = self.waypoints.of(key).binding.waypoint
        around = Surroundings(
            peer,
            policies + self._guards(item, serving),
            services,
            waypoint=waypoint.address if waypoint is not None and waypoint.takes(Kind.POD) else None,
        )
        if not isinstance(item, Pod):
            return around
        namespace, node = self.find(Namespace, "", key.namespace), self.find(Node, "", item.spec.node_name)
        return msgspec.structs.replace(around, namespace=namespace, node=node, slice_ready=self._slice_ready(key))

    def _guards(self, item: Pod | WorkloadEntry | ServiceEntry, serving: Iterable[Service | ServiceEntry]) -> tuple[str, ...]:
        """The names of the guards that hold for an object's workloads: of what it serves, and of the waypoint of its own."""
        found = [one.key for one in (*serving, *self._listing(item)) if self.waypoints.of(one.key).guarded]
        own = self.waypoints.of(item.key)
        if own.guarded and own.binding.wanted is not None and not isinstance(item, ServiceEntry):
            found.append(own.binding.wanted)
        return tuple(guard_key(one) for one in dict.fromkeys(found))

    def _listing(self, item: MeshObject) -> list[Service]:
        """The services of slices that list a pod's address without naming it."""
        slices = (self._objects[one] for one in sorted(self._listed.slices(item))) if isinstance(item, Pod) else ()
        owners = (self._slice_owner(one) for one in slices if isinstance(one, EndpointSlice))
        return [one for one in owners if one is not None]

    def beside(self, service: ObjectKey) -> set[ObjectKey]:
        """Other services that share workloads with one."""
        items = ((one, self._objects.get(one)) for one in self.served_by(service))
        found = (self.serving(one, workload_labels(item)) for one, item in items if item is not None)
        return {one.key for serving in found for one in serving} - {service}

    def _beside(self, services: Iterable[ObjectKey]) -> set[ObjectKey]:
        return set().union(*(self.beside(one) for one in services)) if self.waypoints.guards else set()

    def _guards_with_ports_of(self, *items: MeshObject | None) -> set[ObjectKey]:
        """Guarded services whose ports, or whom they share workloads with, depend on these workloads, or slices."""
        if not self.waypoints.guards:
            return set()
        found: set[ObjectKey] = set()
        for item in items:
            match item:
                case Pod() | WorkloadEntry():
                    serving = (*self.serving(item.key, workload_labels(item)), *self._listing(item))
                    found |= {one.key for one in serving if _names_ports(one) or len(serving) > 1}
                case EndpointSlice():
                    found.add(ObjectKey(Kind.SERVICE, item.metadata.namespace, item.service_name))
        return {key for key in found if self.waypoints.of(key).guarded}

    def slices(self, service: ObjectKey) -> list[EndpointSlice]:
        """The slices that say where a service without selector is served."""
        found = (self._objects[one] for one in sorted(self._slices_by_service.get(service, ())))
        return [one for one in found if isinstance(one, EndpointSlice) and self._slice_owner(one) is not None]

    def served_by(self, key: ObjectKey) -> set[ObjectKey]:
        """The objects whose workloads are behind a service."""
        match self._objects.get(key):
            case Service() as service:
                found = self.selected(key.namespace, service.spec.selector) if service.spec.selector else set()
                found = {one for one in found if one.kind is not Kind.SERVICE_ENTRY}
                return found.union(*(self._at(one.key) for one in self.slices(key)))
            case ServiceEntry() as entry:
                return {key} | (self.selected(key.namespace, entry.selector) if entry.selector else set())
        return set()

    def slice_service(self, endpoints: EndpointSlice) -> BoundService | None:
        """The service that a slice belongs to, unless it chooses its endpoints by selector."""
        service = self._slice_owner(endpoints)
        return bound_service(service, self._settings) if service is not None else None

    def _at(self, key: ObjectKey) -> set[ObjectKey]:
        """The pods that a slice names, or lists by address."""
        endpoints = self._objects[key]
        return _targets(endpoints) | self._listed.pods(endpoints) if isinstance(endpoints, EndpointSlice) else set()

    def _slice_owner(self, endpoints: EndpointSlice) -> Service | None:
        service = self.find(Service, endpoints.metadata.namespace, endpoints.service_name)
        return service if service is not None and not service.external and not service.spec.selector else None

    def serving(self, key: ObjectKey, labels: Labels) -> list[Service | ServiceEntry]:
        """The services that an object's workload is behind: by their selectors, then by slices that name the pod."""
        selecting = [self._objects[one] for one in self._services.matching(key.namespace, labels)]
        slices = (self._objects[one] for one in sorted(self._slices_by_pod.get(key, ())))
        named = [self._slice_owner(one) for one in slices if isinstance(one, EndpointSlice)]
        found: list[Service | ServiceEntry] = [one for one in selecting if isinstance(one, Service)]
        found += [one for one in selecting if isinstance(one, ServiceEntry)]
        return [*found, *(service for service in named if service is not None)]

    def as_bound(self, service: Service | ServiceEntry) -> BoundService:
        """A service as its workloads see it."""
        return bound_service(service, self._settings) if isinstance(service, Service) else bound_entry(service, self._settings)

    def _slice_ready(self, pod: ObjectKey) -> bool | None:
        slices = [one for key in self._slices_by_pod.get(pod, ()) if isinstance(one := self._objects[key], EndpointSlice)]
        said = [endpoint.ready for one in slices for endpoint in one.endpoints if _target(one, endpoint) == pod]
        return any(said) if said else None

    def _reindex(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> set[ObjectKey]:
        match key.kind:
            case Kind.NAMESPACE:
                return self._put_namespace(key, old, new)
            case Kind.NODE:
                return self._put_node(key, old, new)
            case Kind.POD:
                return self._put_pod(key, old, new)
            case Kind.SERVICE_ENTRY:
                return self._put_service(key, old, new) | self._hand_out(key, _as(ServiceEntry, new))
            case Kind.SERVICE | Kind.WORKLOAD_ENTRY:
                return self._put_service(key, old, new)
            case Kind.ENDPOINT_SLICE:
                return self._put_slice(key, old, new)
            case Kind.AUTHORIZATION_POLICY:
                return self.policies.put_authorization(key, _as(AuthorizationPolicy, old), _as(AuthorizationPolicy, new))
            case Kind.PEER_AUTHENTICATION:
                return self.policies.put_peer(key, _as(PeerAuthentication, old), _as(PeerAuthentication, new))
            case (
                Kind.SERVICE_ACCOUNT
                | Kind.GATEWAY
                | Kind.REQUEST_AUTHENTICATION
                | Kind.MESH_CONFIG
                | Kind.TELEMETRY
                | Kind.RATE_LIMIT
                | Kind.WORKLOAD_GROUP
                | Kind.VIRTUAL_SERVICE
                | Kind.DESTINATION_RULE
                | Kind.ENVOY_FILTER
                | Kind.WASM_PLUGIN
                | Kind.GATEWAY_CLASS
                | Kind.HTTP_ROUTE
                | Kind.GRPC_ROUTE
                | Kind.TLS_ROUTE
                | Kind.TCP_ROUTE
                | Kind.REFERENCE_GRANT
                | Kind.ISTIO_GATEWAY
            ):
                return set()

    def _put_namespace(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> set[ObjectKey]:
        modes = [item.metadata.labels.get(wire.LABEL_DATAPLANE_MODE) if item else None for item in (old, new)]
        return self._workloads.within(key.name) if modes[0] != modes[1] else set()

    def _put_node(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> set[ObjectKey]:
        moved = node_locality(_as(Node, old)) != node_locality(_as(Node, new))
        return set(self._pods_by_node.get(key.name, ())) if moved else set()

    def _put_pod(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> set[ObjectKey]:
        if isinstance(old, Pod):
            unfile(self._pods_by_node, old.spec.node_name, key)
            self._count(old, -1)
        if isinstance(new, Pod):
            self._pods_by_node.setdefault(new.spec.node_name, set()).add(key)
            self._count(new, 1)
        self._workloads.put(key, new.metadata.labels if new else None)
        return set()

    def _count(self, pod: Pod, by: int) -> None:
        if not pod.live or not pod.spec.node_name:
            return
        place = (pod.spec.node_name, pod.metadata.namespace, pod.spec.service_account_name)
        self._placed[place] += by
        if not self._placed[place]:
            del self._placed[place]

    def _put_service(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> set[ObjectKey]:
        if key.kind is Kind.WORKLOAD_ENTRY:
            self._file_registration(key, old, new)
        if key.kind is not Kind.SERVICE:
            self._workloads.put(key, workload_labels(new) if new else None)
        before, after = self._offer(old), self._offer(new)
        if before == after:
            return set()
        self._services.put(key, key.namespace, after[0] if after else None)
        affected = {workload for offer in (before, after) if offer and offer[0] for workload in self.selected(key.namespace, offer[0])}
        # A service's selector selects entries too, but never a ServiceEntry's inline endpoints.
        affected = {workload for workload in affected if workload.kind is not Kind.SERVICE_ENTRY}
        for endpoints in self._slices_by_service.get(key, ()):
            affected |= {endpoints} | self._at(endpoints)
        return affected

    def _file_registration(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> None:
        before, after = (vm.node_of(one) if isinstance(one, WorkloadEntry) else "" for one in (old, new))
        if before:
            unfile(self._registered, before, key)
        if after:
            self._registered.setdefault(after, set()).add(key)

    def _hand_out(self, key: ObjectKey, entry: ServiceEntry | None) -> set[ObjectKey]:
        """Gives addresses to the hosts of an entry that need some; returns whose hosts have other ones now."""
        if entry is None or not needs_addresses(entry):
            return self.handed_out.put(key, (), _NO_ORDER)
        hosts = (one.key for one in entry_services(entry, self._settings))
        return self.handed_out.put(key, hosts, entry.metadata.age_rank)

    def _offer(self, item: MeshObject | None) -> tuple[Labels, BoundService] | None:
        """What of a service matters to its workloads."""
        if isinstance(item, Service) and not item.external:
            return item.spec.selector, bound_service(item, self._settings)
        if isinstance(item, ServiceEntry):
            return item.selector, bound_entry(item, self._settings)
        return None

    def _put_slice(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> set[ObjectKey]:
        affected: set[ObjectKey] = set()
        for item, add in ((_as(EndpointSlice, old), False), (_as(EndpointSlice, new), True)):
            if item is None:
                continue
            targets = _targets(item)
            affected |= targets | self._listed.pods(item)
            service = ObjectKey(Kind.SERVICE, key.namespace, item.service_name)
            _link(self._slices_by_service, [service], key, add=add)
            _link(self._slices_by_pod, targets, key, add=add)
        return {pod for pod in affected if pod in self._objects}


def _as(kind: type[O], item: MeshObject | None) -> O | None:
    return item if isinstance(item, kind) else None


def _services_of(key: ObjectKey, item: MeshObject | None) -> set[ObjectKey]:
    """The service that an object is, or is a part of."""
    match item:
        case Service() | ServiceEntry():
            return {key}
        case EndpointSlice():
            return {ObjectKey(Kind.SERVICE, key.namespace, item.service_name)}
    return set()


def _names_ports(service: Service | ServiceEntry) -> bool:
    """Whether on which port it is served is the workload's to say."""
    return isinstance(service, ServiceEntry) or any(isinstance(port.target_port, str) for port in service.spec.ports)


def _target(endpoints: EndpointSlice, endpoint: Endpoint) -> ObjectKey | None:
    reference = endpoint.target_ref
    if reference is None or reference.kind != "Pod":
        return None
    # A slice speaks for pods of its own namespace only, whatever it says.
    return ObjectKey(Kind.POD, endpoints.metadata.namespace, reference.name)


def _targets(endpoints: EndpointSlice | None) -> set[ObjectKey]:
    items = endpoints.endpoints if endpoints else ()
    return {target for one in items if endpoints and (target := _target(endpoints, one)) is not None}


def _link(index: dict[ObjectKey, set[ObjectKey]], sources: Iterable[ObjectKey], key: ObjectKey, *, add: bool) -> None:
    for source in sources:
        if add:
            index.setdefault(source, set()).add(key)
        else:
            unfile(index, source, key)
