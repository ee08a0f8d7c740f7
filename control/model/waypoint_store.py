"""Waypoints and what is bound to them, kept so that a change looks again at no more than may differ by it."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from control.kinds import Gateway, Kind, MeshObject, Namespace, ObjectKey, Pod, Service, WorkloadEntry
from control.model.labels import ANYWHERE, LabelIndex, Labels, refile, selects, workload_labels
from control.model.settings import MeshSettings
from control.model.waypoint_guards import ClassTarget, Target, targets
from control.model.waypoints import SERVICE_KINDS, UNBOUND, Binding, Waypoint, bind, is_reached_by, own_service, wanted, waypoint
from meshapi import wire

NO_LABELS: Labels = {}


class Bound(Struct, frozen=True):
    """What holds for an object. `guarded`: only its waypoint may reach it; without one, nobody. `ingress`: gateways go through it, too."""

    binding: Binding = UNBOUND
    guarded: bool = False
    ingress: bool = False


NOTHING = Bound()


class Touched(Struct, frozen=True):
    """What a change led to: the objects for which something else holds now, and those that are guarded now or no more."""

    changed: frozenset[ObjectKey] = frozenset()
    reguarded: frozenset[ObjectKey] = frozenset()


class WaypointStore:
    """`put` follows each object that was replaced in `objects`; `workloads` indexes those with workloads by label."""

    def __init__(self, settings: MeshSettings, objects: Mapping[ObjectKey, MeshObject], workloads: LabelIndex) -> None:
        self._settings = settings
        self._objects = objects
        self._workloads = workloads
        self._services: dict[str, set[ObjectKey]] = {}
        """Services by namespace."""
        self._asking: dict[ObjectKey, set[ObjectKey]] = {}
        """Objects whose own label names a Gateway, by that Gateway; namespaces likewise."""
        self._by_service: dict[ObjectKey, set[ObjectKey]] = {}
        """Gateways by the service that they are reached by."""
        self._targeting: dict[Target, set[ObjectKey]] = {}
        """Policies by what they protect."""
        self._waypoints: dict[ObjectKey, Waypoint] = {}
        self._bound: dict[ObjectKey, Bound] = {}

    def of(self, key: ObjectKey) -> Bound:
        """What holds for an object."""
        return self._bound.get(key, NOTHING)

    def waypoint(self, key: ObjectKey) -> Waypoint | None:
        """A Gateway as a waypoint, if it is one."""
        return self._waypoints.get(key)

    def bound_to(self, gateway: ObjectKey) -> set[ObjectKey]:
        """The objects whose traffic goes through a waypoint."""
        return {key for key in self._asking_for(gateway) if (found := self.of(key).binding.waypoint) and found.key == gateway}

    def run_by(self, gateway: ObjectKey) -> set[ObjectKey]:
        """The objects whose workloads are a waypoint."""
        return self._run_as(gateway, self._own_service_of(gateway)) if gateway in self._waypoints else set()

    def gates_within(self, namespace: str) -> set[ObjectKey]:
        """The waypoints of what is bound in a namespace, or ANYWHERE."""
        within = (one for key, one in self._bound.items() if namespace in {ANYWHERE, key.namespace} and key.kind is not Kind.GATEWAY)
        return {one.binding.waypoint.key for one in within if one.binding.waypoint is not None}

    def protected_by(self, policy: ObjectKey) -> set[ObjectKey]:
        """The services and Gateways that a policy names, whether they exist or not."""
        return {target for target, policies in self._targeting.items() if policy in policies and isinstance(target, ObjectKey)}

    @property
    def guards(self) -> bool:
        """Whether anything may be guarded."""
        return bool(self._targeting)

    def put(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> Touched:
        """Looks again at all that the replacement of an object may touch."""
        self._file(key, old, new)
        gateways, suspects = self._concerned(key, old, new)
        for gateway in gateways:
            if self._renew(gateway):
                suspects |= {gateway} | self._asking_for(gateway)
        return self._look_again(suspects | self._instances_by(old) | self._instances_by(new))

    # ---- indexes

    def _file(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> None:
        if key.kind is Kind.SERVICE:
            refile(self._services, key, {key.namespace} if old else set(), {key.namespace} if new else set())
        refile(self._asking, key, _asked(old), _asked(new))
        refile(self._by_service, key, self._reached_by(old), self._reached_by(new))
        root = self._settings.root_namespace
        refile(self._targeting, key, targets(old, root), targets(new, root))

    def _reached_by(self, item: MeshObject | None) -> set[ObjectKey]:
        return {own_service(item, self._settings)} if isinstance(item, Gateway) else set()

    def _asking_for(self, gateway: ObjectKey) -> set[ObjectKey]:
        """Objects that ask for a Gateway, or may, because their namespace does."""
        asking = self._asking.get(gateway, set())
        inside = (self._within(key.name) for key in asking if key.kind is Kind.NAMESPACE)
        return {key for key in asking if key.kind is not Kind.NAMESPACE}.union(*inside)

    def _within(self, namespace: str) -> set[ObjectKey]:
        return self._services.get(namespace, set()) | self._workloads.within(namespace)

    # ---- what a change may touch

    def _concerned(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> tuple[set[ObjectKey], set[ObjectKey]]:
        """Gateways, and other objects."""
        match key.kind:
            case Kind.GATEWAY:
                return {key}, {key} | self._asking_for(key)
            case Kind.NAMESPACE:
                return set(), self._within(key.name) if _labels(old) != _labels(new) else set()
            case Kind.SERVICE:
                return set(self._by_service.get(key, ())), {key}
            case Kind.POD | Kind.WORKLOAD_ENTRY | Kind.SERVICE_ENTRY:
                return self._maybe_run_by(key, old) | self._maybe_run_by(key, new), {key}
            case Kind.AUTHORIZATION_POLICY | Kind.REQUEST_AUTHENTICATION | Kind.RATE_LIMIT:
                root = self._settings.root_namespace
                return set(), self._protected(targets(old, root) ^ targets(new, root))
        return set(), set()

    def _protected(self, changed: Iterable[Target]) -> set[ObjectKey]:
        found: set[ObjectKey] = set()
        for target in changed:
            if isinstance(target, ClassTarget):
                of_class = [key for key in self._waypoints if self._class_of(key) == target.name]
                found |= {one for key in of_class for one in {key} | self._asking_for(key)}
            else:
                found |= {target} | (self._asking_for(target) if target.kind is Kind.GATEWAY else set())
        return found

    def _class_of(self, key: ObjectKey) -> str:
        gateway = self._objects.get(key)
        return gateway.spec.gateway_class_name if isinstance(gateway, Gateway) else ""

    # ---- waypoints and their workloads

    def _renew(self, key: ObjectKey) -> bool:
        """Whether a waypoint is another one than before."""
        gateway, before = self._objects.get(key), self._waypoints.pop(key, None)
        if not isinstance(gateway, Gateway):
            return before is not None
        principals = self._principals(key, self._own_service(gateway))
        found = waypoint(gateway, self._service_of_its_name(gateway), principals, self._settings)
        if found is not None:
            self._waypoints[key] = found
        return found != before

    def _principals(self, gateway: ObjectKey, service: Service | None) -> tuple[str, ...]:
        """The account that is made for a Gateway has its name; who runs one by hand may have taken another."""
        accounts = {account for key in self._run_as(gateway, service) if (account := account_of(self._objects.get(key)))}
        accounts.add(gateway.name)
        return tuple(f"{self._settings.trust_domain}/ns/{gateway.namespace}/sa/{account}" for account in sorted(accounts))

    def _run_as(self, gateway: ObjectKey, service: Service | None) -> set[ObjectKey]:
        """The objects of its workloads: by the label that says so, or selected by its service."""
        keys = self._workloads.select(gateway.namespace, {wire.LABEL_GATEWAY_NAME: gateway.name})
        if service is not None and service.spec.selector:
            keys |= self._workloads.select(gateway.namespace, service.spec.selector)
        return {key for key in keys if key.kind is not Kind.SERVICE_ENTRY}

    def _instances_by(self, item: MeshObject | None) -> set[ObjectKey]:
        """What a Gateway, or a service that Gateways are reached by, makes the workloads of a waypoint, and its service."""
        match item:
            case Gateway():
                ways = [(item.key, self._service_of_its_name(item))]
            case Service():
                ways = [(gateway, item) for gateway in self._by_service.get(item.key, ())]
            case _:
                return set()
        services = {service.key for _, service in ways if service is not None}
        return services.union(*(self._run_as(gateway, service) for gateway, service in ways))

    def _service_of_its_name(self, gateway: Gateway) -> Service | None:
        service = self._objects.get(own_service(gateway, self._settings))
        return service if isinstance(service, Service) else None

    def _own_service(self, gateway: Gateway) -> Service | None:
        """The service that a waypoint is reached by: a service of its name may be another one."""
        service = self._service_of_its_name(gateway)
        return service if service is not None and is_reached_by(gateway, service, self._settings) else None

    def _maybe_run_by(self, key: ObjectKey, item: MeshObject | None) -> set[ObjectKey]:
        """The Gateways that an object's workload may be one of."""
        if not isinstance(item, Pod | WorkloadEntry):
            return set()
        labels = workload_labels(item)
        name = labels.get(wire.LABEL_GATEWAY_NAME)
        found = {ObjectKey(Kind.GATEWAY, key.namespace, name)} if name else set()
        for service_key, gateways in self._by_service.items():
            service = self._objects.get(service_key) if service_key.namespace == key.namespace else None
            if isinstance(service, Service) and service.spec.selector and selects(service.spec.selector, labels):
                found |= gateways
        return found

    # ---- what holds for an object

    def _look_again(self, suspects: Iterable[ObjectKey]) -> Touched:
        changed: set[ObjectKey] = set()
        reguarded: set[ObjectKey] = set()
        for key in suspects:
            before, now = self._bound.pop(key, NOTHING), self._holds(key)
            if now != NOTHING:
                self._bound[key] = now
            if now != before:
                changed.add(key)
            if now.guarded != before.guarded:
                reguarded.add(key)
        return Touched(frozenset(changed), frozenset(reguarded))

    def _holds(self, key: ObjectKey) -> Bound:
        item = self._objects.get(key)
        if isinstance(item, Gateway):
            found = self._waypoints.get(key)
            return Bound(Binding(key, found), guarded=self._has_policies(key)) if found is not None else NOTHING
        if item is None or self._is_waypoint(key, item):
            return NOTHING
        namespace = _labels(self._objects.get(ObjectKey(Kind.NAMESPACE, "", key.namespace)))
        asked = wanted(_labels(item), namespace, key.namespace)
        found = self._waypoints.get(asked) if asked is not None else None
        by_gateway = asked is not None and self._has_policies(asked) and (found.takes(key.kind) if found else key.kind in SERVICE_KINDS)
        ingress = {**namespace, **_labels(item)}.get(wire.LABEL_INGRESS_USE_WAYPOINT, "").lower() == "true"
        return Bound(bind(key, asked, found, namespace), guarded=by_gateway or key in self._targeting, ingress=ingress)

    def _has_policies(self, gateway: ObjectKey) -> bool:
        return gateway in self._targeting or ClassTarget(self._class_of(gateway)) in self._targeting

    def _is_waypoint(self, key: ObjectKey, item: MeshObject) -> bool:
        """A waypoint's own service and workloads are not reached through one."""
        if isinstance(item, Service):
            return any(self._is_own(gateway, item) for gateway in self._by_service.get(key, ()))
        return any(key in self.run_by(gateway) for gateway in self._maybe_run_by(key, item))

    def _is_own(self, gateway: ObjectKey, service: Service) -> bool:
        found = self._own_service_of(gateway) if gateway in self._waypoints else None
        return found is not None and found.key == service.key

    def _own_service_of(self, key: ObjectKey) -> Service | None:
        gateway = self._objects.get(key)
        return self._own_service(gateway) if isinstance(gateway, Gateway) else None


def _asked(item: MeshObject | None) -> set[ObjectKey]:
    """The Gateway that the object's own label names."""
    if item is None or item.kind_of not in _LABELLED:
        return set()
    namespace = item.metadata.name if isinstance(item, Namespace) else item.metadata.namespace
    found = wanted(_labels(item), NO_LABELS, namespace)
    return {found} if found is not None else set()


_LABELLED = SERVICE_KINDS | {Kind.NAMESPACE, Kind.POD, Kind.WORKLOAD_ENTRY}


def _labels(item: MeshObject | None) -> Labels:
    return item.metadata.labels if item is not None else NO_LABELS


def account_of(item: MeshObject | None) -> str:
    """The service account of an object's workload, empty if it has none that runs."""
    match item:
        case Pod():
            return item.spec.service_account_name if item.live else ""
        case WorkloadEntry():
            return item.spec.service_account or wire.DEFAULT_SERVICE_ACCOUNT
    return ""
