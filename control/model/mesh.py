"""The mesh: takes changes of objects, keeps the resources that agents are served, and answers for placement and status."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from control.kinds import Gateway, Kind, MeshObject, Node, ObjectKey, Pod, WorkloadEntry
from control.model.claims import Claims, rank
from control.model.derivation import ADDRESS, Derived, address_claim, derive, derive_static_strict
from control.model.published import Published
from control.model.settings import MeshSettings
from control.model.store import Store
from control.model.told import Told
from control.model.vm import group_of
from control.resources import Changes, PlacedNode, PlacedPod, Resource, TypeURL
from control.source import Change, FileFindings, Reject, Remove, Synced, Upsert
from control.validation.document import Manifest
from control.validation.finding import Finding, Origin
from meshapi import wire
from meshapi.spiffe import WorkloadIdentity
from meshapi.vm import VMName, is_vm, parse_vm
from meshapi.workload import AddressKey, Service, Workload


class Record(Struct, frozen=True):
    """What the source last said of an object. `object` is what is in force: None where nothing ever was understood.

    `rejected`: the manifest is not what is in force; `closed`: what is in force is a stand-in that denies.
    """

    origin: Origin
    manifest: Manifest
    findings: tuple[Finding, ...]
    object: MeshObject | None
    rejected: bool = False
    closed: bool = False


class Batch(Struct, frozen=True):
    """What one batch changed: the objects in force, and the resources that they amount to."""

    objects: frozenset[ObjectKey]
    resources: Changes


class Mesh:
    """Implements ResourceView and Placement. One thread: all calls come from the event loop's."""

    def __init__(self, settings: MeshSettings) -> None:
        self.settings = settings
        self.synced = False
        """Whether the source has delivered all that was there at the start."""
        self.running = False
        """Whether it had before the present batch: what comes in this one is new."""
        self.file_findings: dict[str, tuple[Finding, ...]] = {}
        self.batches = 0
        """How many batches of changes there were: with none more, nothing can have changed."""
        self.refused: dict[ObjectKey, tuple[str, ...]] = {}
        """What Envoys refuse of the objects, in their words."""
        self.in_vain: dict[ObjectKey, tuple[str, ...]] = {}
        """What objects ask of Envoys and do not get."""
        self.told_elsewhere = Told()
        """The same, of the Envoys that are connected to other replicas."""
        self.derivations: Counter[Kind] = Counter()
        """How often the resources of an object were computed, by kind."""
        self.records: dict[ObjectKey, Record] = {}
        self.store = Store(settings)
        self.claims = Claims()
        self.derived: dict[ObjectKey, Derived] = {}
        self._published = Published(settings.domain)
        self._served: dict[ObjectKey, frozenset[tuple[TypeURL, str]]] = {}
        self._owners: dict[tuple[TypeURL, str], ObjectKey] = {}
        self._changed: set[ObjectKey] = set()
        self._batch_watchers: list[Callable[[Batch], None]] = []

    # ---- what changes

    def apply(self, changes: Iterable[Change]) -> None:
        """Applies a batch: computes anew what it touches, and then tells the watchers once."""
        self.batches += 1
        self.running = self.synced
        dirty: set[ObjectKey] = set()
        for change in changes:
            match change:
                case Upsert():
                    record = Record(change.origin, change.manifest, change.findings, change.object)
                    dirty |= self._record(change.key, record)
                case Reject():
                    dirty |= self._record(change.key, self._rejected(change))
                case Remove(key):
                    dirty |= self._record(key, None)
                case FileFindings(file, findings):
                    self.file_findings.pop(file, None)
                    if findings:
                        self.file_findings[file] = findings
                case Synced():
                    self.synced = True
        self._recompute(dirty)

    def _rejected(self, change: Reject) -> Record:
        before = self.records.get(change.key)
        if before is not None and before.object is not None and not before.closed:
            return Record(change.origin, change.manifest, change.findings, before.object, rejected=True)
        # Patches that are new and can't be understood leave in force what was before them: nothing.
        new = _written_once(change.manifest) or (self.running if before is None else before.object is None)
        closed = None if change.key.kind is Kind.ENVOY_FILTER and new else change.closed
        return Record(change.origin, change.manifest, change.findings, closed, rejected=True, closed=closed is not None)

    def _record(self, key: ObjectKey, record: Record | None) -> set[ObjectKey]:
        before = self.records.pop(key, None)
        if record is not None:
            self.records[key] = record
        was, now = before.object if before else None, record.object if record else None
        if was == now:
            return set()
        self._changed.add(key)
        return self.store.put(key, now)

    def _recompute(self, dirty: set[ObjectKey]) -> None:
        contested: set[ObjectKey] = set()
        # Sorted, so that the same changes do the same in every run.
        for key in sorted(dirty):
            derived = self._derive(key)
            self.derived.pop(key, None)
            item = self.store.get(key)
            if item is not None:
                contested |= self.claims.put(key, derived.all_claims, rank(item))
            else:
                contested |= self.claims.put(key, (), (0, False, (False, "", "", "")))
            if derived != Derived():
                self.derived[key] = derived
        self._publish(contested)

    def _derive(self, key: ObjectKey) -> Derived:
        if key == self.store.policies.static_key:
            return derive_static_strict(self.store, self.settings)
        item = self.store.get(key)
        if item is None:
            return Derived()
        self.derivations[key.kind] += 1
        return derive(item, self.store, self.settings)

    def _publish(self, keys: set[ObjectKey]) -> None:
        winning = {key: [one for one in self._derived_of(key).candidates if not self.lost(key, one.claims)] for key in sorted(keys)}
        # First all that goes, then all that comes: a name may move from one object to another.
        for key, candidates in winning.items():
            names = frozenset((one.type_url, one.name) for one in candidates)
            for type_url, name in self._served.pop(key, frozenset()) - names:
                self._published.remove(type_url, name)
                self._owners.pop((type_url, name), None)
            if names:
                self._served[key] = names
        for key, candidates in winning.items():
            for one in candidates:
                self._published.put(one)
                self._owners[(one.type_url, one.name)] = key
        resources = self._published.commit()
        objects, self._changed = frozenset(self._changed), set()
        if objects or resources:
            for watcher in self._batch_watchers:
                watcher(Batch(objects, resources))

    def _derived_of(self, key: ObjectKey) -> Derived:
        return self.derived.get(key, Derived())

    def lost(self, key: ObjectKey, claims: Iterable[str]) -> list[tuple[str, ObjectKey]]:
        """The claims that another object has, and which one."""
        winners = ((claim, self.claims.winner(claim)) for claim in claims)
        return [(claim, winner) for claim, winner in winners if winner != key]

    def take_problems(self, in_vain: Mapping[ObjectKey, tuple[str, ...]]) -> None:
        """What objects ask of the connected Envoys and do not get, all of it."""
        if self.in_vain != in_vain:
            self.in_vain = dict(in_vain)
            self.batches += 1

    def take_refusals(self, refused: Mapping[ObjectKey, tuple[str, ...]]) -> None:
        """This is what Envoys refuse now."""
        if self.refused != refused:
            self.refused = dict(refused)
            self.batches += 1

    def take_told_elsewhere(self, told: Told) -> None:
        """This is what the Envoys of other replicas tell now."""
        if self.told_elsewhere != told:
            self.told_elsewhere = told
            self.batches += 1

    def watch_batches(self, watcher: Callable[[Batch], None]) -> None:
        """Calls `watcher` at the end of each batch that changed something."""
        self._batch_watchers.append(watcher)

    def address(self, name: str) -> tuple[Workload | Service, MeshObject] | None:
        """The workload or service that is served under a name, and the object that it comes from."""
        value, owner = self._published.value(name), self._owners.get((ADDRESS, name))
        item = self.store.get(owner) if owner is not None else None
        return None if value is None or item is None else (value, item)

    def addresses_of(self, key: ObjectKey) -> Iterator[str]:
        """The names of the workloads or services that an object amounts to."""
        return (name for type_url, name in self._served.get(key, frozenset()) if type_url == ADDRESS)

    # ---- ResourceView

    def names(self, type_url: TypeURL) -> Collection[str]:
        """Every resource of a type."""
        return self._published.names(type_url)

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        """A resource by its name."""
        return self._published.get(type_url, name)

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        """The names that a key stands for."""
        return self._published.resolve(type_url, key)

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:
        """The workloads of a service."""
        return self._published.members(type_url, name)

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        """Calls `on_change` after each batch that changed something; returns what ends it."""
        return self._published.watch(on_change)

    # ---- Placement

    def has_node(self, node: str) -> bool:
        """Whether the mesh knows this node: one of the cluster, or a machine with a group that is there."""
        machine = parse_vm(node)
        if machine is not None:
            return any(self.store.group(group) is not None for group in machine.groups)
        return not is_vm(node) and self.store.find(Node, "", node) is not None

    def has_gateway(self, namespace: str, name: str) -> bool:
        """Whether there is a Gateway whose Envoys this controller configures."""
        gateway = self.store.find(Gateway, namespace, name)
        if gateway is None:
            return self.store.edges.run_as(namespace, name)
        return gateway.spec.gateway_class_name in wire.WAYPOINT_CLASSES | wire.GATEWAY_CLASSES

    def runs_on(self, identity: WorkloadIdentity, node: str) -> bool:
        """Whether a live pod with this identity is placed on this node, or a machine has registered so."""
        own = identity.trust_domain == self.settings.trust_domain
        machine = parse_vm(node)
        if machine is not None:
            return own and any(self._registered_as(identity, entry, machine) for entry in self.store.registered(node))
        return own and self.has_node(node) and self.store.placed(node, identity.namespace, identity.service_account)

    def _registered_as(self, identity: WorkloadIdentity, entry: WorkloadEntry, machine: VMName) -> bool:
        """The account is the group's, and the group is in the machine's name: nothing that an entry says of itself gives an identity."""
        name = group_of(entry)
        group = self.store.group(name) if name is not None and name in machine.groups else None
        if group is None or entry.metadata.deletion_timestamp:
            return False
        granted = WorkloadIdentity(self.settings.trust_domain, group.metadata.namespace, group.service_account)
        return granted == identity and self.served(entry.key)

    def served(self, key: ObjectKey) -> bool:
        """Whether agents are told of what the object stands for."""
        return key in self._served

    def holder(self, address: AddressKey) -> ObjectKey | None:
        """Who has an address, of all that claim it."""
        return self.claims.holder(address_claim(address))

    def pod(self, namespace: str, name: str) -> PlacedPod | None:
        """A pod, where it is."""
        pod = self.store.find(Pod, namespace, name)
        if pod is None:
            return None
        live = pod.live and not pod.metadata.deletion_timestamp
        return PlacedPod(pod.metadata.uid, pod.spec.node_name, pod.spec.service_account_name, live, pod.addresses)

    def node(self, name: str) -> PlacedNode | None:
        """A node, by its name."""
        node = self.store.find(Node, "", name)
        return PlacedNode(node.metadata.uid, node.networks) if node is not None else None


def _written_once(manifest: Manifest) -> bool:
    """Whether an object never asked for anything else."""
    metadata = manifest.get("metadata")
    return isinstance(metadata, dict) and metadata.get("generation") == 1
