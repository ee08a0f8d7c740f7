"""The names that the mesh knows, indexed the ways that questions look for them."""

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeVar

from meshapi.names import Host, Names
from meshapi.workload import IPAddress, ServiceKey, service_key

DEFAULT_DOMAIN: Final = "cluster.local"
K = TypeVar("K")


class Named(NamedTuple):
    """A host, and the namespace that defines it."""

    namespace: str
    host: Host

    @property
    def key(self) -> ServiceKey:
        return service_key(self.namespace, self.host.hostname)

    def is_seen_from(self, namespace: str) -> bool:
        return not self.host.private or self.namespace == namespace


class Directory:
    """Belongs to the event loop's thread. `put` takes the whole of a namespace."""

    def __init__(self) -> None:
        self._tables: dict[str, Names] = {}
        self._by_name: dict[str, tuple[Named, ...]] = {}
        self._by_address: dict[IPAddress, tuple[Named, ...]] = {}
        self._learned: set[str] | None = set()
        """The namespaces whose names are only learned; None once the controller has told of names."""
        self.domain = DEFAULT_DOMAIN
        """The cluster's."""

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def told(self) -> bool:
        """Whether the controller tells of names: what is learned counts no more."""
        return self._learned is None

    def put(self, names: Names) -> None:
        """Takes a namespace's names instead of those that it had."""
        for namespace in self._learned or ():
            self._remove(namespace)
        self._learned = None
        self._put(names)

    def learn(self, names: Names) -> None:
        """The same of what is known of a namespace, which need not be all; counts only as long as nobody tells."""
        if self._learned is not None:
            self._learned.add(names.namespace)
            self._put(names)

    def _put(self, names: Names) -> None:
        before = self._tables.get(names.namespace)
        self._tables[names.namespace] = names
        self.domain = names.domain
        stays = frozenset(before.hosts) & frozenset(names.hosts) if before else frozenset()
        self._unlink(names.namespace, (host for host in before.hosts if host not in stays) if before else ())
        for host in names.hosts:
            if host not in stays:
                self._link(Named(names.namespace, host))

    def remove(self, namespace: str) -> None:
        """The namespace has no names any more."""
        self._remove(namespace)

    def _remove(self, namespace: str) -> None:
        before = self._tables.pop(namespace, None)
        if before is not None:
            self._unlink(namespace, before.hosts)

    def find(self, hostname: str, namespace: str) -> Named | None:
        """What a workload of `namespace` sees under exactly this name: its own namespace's first, then by namespace."""
        return _seen(self._by_name.get(hostname, ()), namespace)

    def at(self, address: IPAddress, namespace: str) -> Named | None:
        """Whose address it is, as a workload of `namespace` sees it; a name of wildcards is none."""
        return _seen((named for named in self._by_address.get(address, ()) if not named.host.hostname.startswith("*")), namespace)

    def _link(self, named: Named) -> None:
        name = named.host.hostname
        self._by_name[name] = (*self._by_name.get(name, ()), named)
        for address in named.host.addresses:
            self._by_address[address] = (*self._by_address.get(address, ()), named)

    def _unlink(self, namespace: str, hosts: Iterable[Host]) -> None:
        for host in hosts:
            named = Named(namespace, host)
            _without(self._by_name, host.hostname, named)
            for address in host.addresses:
                _without(self._by_address, address, named)


def _seen(found: Iterable[Named], namespace: str) -> Named | None:
    seen = [named for named in found if named.is_seen_from(namespace)]
    return min(seen, key=lambda named: (named.namespace != namespace, named.key), default=None)


def _without(index: dict[K, tuple[Named, ...]], key: K, named: Named) -> None:
    left = tuple(one for one in index[key] if one != named)
    if left:
        index[key] = left
    else:
        del index[key]
