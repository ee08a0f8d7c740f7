"""What DNS is to know, as resources: the names of each namespace in one, since agents hold all of them and none is long."""

from collections.abc import Iterator

from meshapi.names import Host, Names, encode_names
from meshapi.workload import ServiceKey


class NameTables:
    """`put` and `remove` within a batch, `changed` at its end."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._hosts: dict[str, dict[str, Host]] = {}
        self._touched: set[str] = set()

    def put(self, key: ServiceKey, host: Host) -> None:
        """Serves a name."""
        namespace, _, hostname = key.partition("/")
        self._hosts.setdefault(namespace, {})[hostname] = host
        self._touched.add(namespace)

    def remove(self, key: ServiceKey) -> None:
        """Serves a name no more."""
        namespace, _, hostname = key.partition("/")
        if self._hosts.get(namespace, {}).pop(hostname, None) is None:
            return
        self._touched.add(namespace)
        if not self._hosts[namespace]:
            del self._hosts[namespace]

    def changed(self) -> Iterator[tuple[str, bytes | None]]:
        """Each namespace that was touched since the last call, and its resource's body; None if it has no names any more."""
        touched, self._touched = self._touched, set()
        for namespace in sorted(touched):
            hosts = self._hosts.get(namespace)
            ordered = tuple(hosts[name] for name in sorted(hosts)) if hosts else ()
            yield namespace, encode_names(Names(namespace, self._domain, ordered)) if ordered else None
