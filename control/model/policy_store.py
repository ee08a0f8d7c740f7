"""The policies in force, found from the workloads that they concern."""

from collections.abc import Iterable

from control.kinds import AuthorizationPolicy, Kind, ObjectKey, PeerAuthentication
from control.kinds.security import MTLSMode
from control.model.authorization import enforced_here
from control.model.labels import ANYWHERE, LabelIndex, Labels, SelectorIndex
from control.model.peer_modes import STATIC_STRICT, PeerModes, inherited, modes_of, oldest


class PolicyStore:
    """Indexes policies; a change returns the keys of what depends on it."""

    def __init__(self, root_namespace: str, workloads: LabelIndex) -> None:
        self._root = root_namespace
        self._workloads = workloads
        self._authorization = SelectorIndex()
        self._peers = SelectorIndex()
        self._peer_objects: dict[ObjectKey, PeerAuthentication] = {}
        self._wide: dict[str, dict[ObjectKey, PeerAuthentication]] = {}
        """PeerAuthentications without selector, by namespace."""
        self._with_ports: dict[str, set[ObjectKey]] = {}
        self.static_key = ObjectKey(Kind.PEER_AUTHENTICATION, root_namespace, STATIC_STRICT)

    @property
    def needs_static_strict(self) -> bool:
        return bool(self._peer_objects)

    def put_authorization(self, key: ObjectKey, old: AuthorizationPolicy | None, new: AuthorizationPolicy | None) -> set[ObjectKey]:
        """Replaces an AuthorizationPolicy; workloads name it only if it has a selector."""
        before, after = _reference(old), _reference(new)
        if before == after:
            return set()
        scope = self.authorization_scope(key)
        self._authorization.put(key, scope, after)
        return {workload for selector in (before, after) if selector for workload in self._workloads.select(scope, selector)}

    def put_peer(self, key: ObjectKey, old: PeerAuthentication | None, new: PeerAuthentication | None) -> set[ObjectKey]:
        """Replaces a PeerAuthentication."""
        affected = {self.static_key}
        for peer in (old, new):
            if peer is not None:
                affected |= self._concerned(key, peer)
        self._peers.put(key, key.namespace, new.selector if new else None)
        _set(self._peer_objects, key, new)
        _set(self._wide.setdefault(key.namespace, {}), key, new if new and not new.selector else None)
        ports = self._with_ports.setdefault(key.namespace, set())
        (ports.add if new and new.ports else ports.discard)(key)
        return affected

    def authorization_scope(self, key: ObjectKey) -> str:
        """The namespace in which an AuthorizationPolicy's selector selects; that of a root policy does ANYWHERE."""
        return ANYWHERE if key.namespace == self._root else key.namespace

    def parent_mode(self, namespace: str) -> MTLSMode:
        """The mode that workloads of a namespace inherit."""
        wide = oldest(self._wide.get(namespace, {}).values()) if namespace != self._root else None
        return inherited(oldest(self._wide.get(self._root, {}).values()), wide)

    def of_workload(self, namespace: str, labels: Labels) -> tuple[tuple[str, ...], PeerModes]:
        """The AuthorizationPolicies that a workload names, and the mode and policies of its PeerAuthentication."""
        named = tuple(f"{key.namespace}/{key.name}" for key in self._authorization.matching(namespace, labels))
        own = oldest(self._peer_objects[key] for key in self._peers.matching(namespace, labels))
        return named, modes_of(own, self.parent_mode(namespace), self._root)

    def older_than(self, key: ObjectKey) -> ObjectKey | None:
        """The PeerAuthentication that holds in place of this one for the same namespace or mesh, if there is one."""
        rivals = self._wide.get(key.namespace, {})
        first = oldest(rivals.values()) if key in rivals else None
        return first.key if first is not None and first.key != key else None

    def _concerned(self, key: ObjectKey, peer: PeerAuthentication) -> set[ObjectKey]:
        if peer.selector:
            return self._workloads.select(key.namespace, peer.selector)
        everywhere = key.namespace == self._root
        namespaces: Iterable[str] = list(self._with_ports) if everywhere else [key.namespace]
        with_ports = {other for namespace in namespaces for other in self._with_ports.get(namespace, ())}
        return self._workloads.within(ANYWHERE if everywhere else key.namespace) | with_ports


def _reference(policy: AuthorizationPolicy | None) -> Labels | None:
    return policy.selector if policy is not None and enforced_here(policy) else None


def _set(table: dict[ObjectKey, PeerAuthentication], key: ObjectKey, value: PeerAuthentication | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
