"""Names of the services that the agent holds: what it can answer with a controller that tells of no names, such as Istio's."""

from collections.abc import Collection

from meshapi.names import Host, Names
from meshapi.workload import Service, ServiceKey, Visibility
from nodeagent.dns.directory import Directory
from nodeagent.dns.wire import is_name
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore


class HeldNames:
    """Follows the snapshot. Ports have no names there, and a service that nobody has called yet is not held."""

    def __init__(self, store: SnapshotStore, directory: Directory) -> None:
        self._directory = directory
        self._hosts: dict[str, dict[str, Host]] = {}
        store.watch(self._on_snapshot)

    def _on_snapshot(self, snapshot: Snapshot, touched: Collection[str]) -> None:
        if self._directory.told:
            return
        changed = {namespace for key in touched if (namespace := self._follow(key, snapshot.services.get(ServiceKey(key))))}
        for namespace in changed:
            hosts = self._hosts.get(namespace, {})
            self._directory.learn(Names(namespace, self._directory.domain, tuple(hosts.values())))

    def _follow(self, key: str, service: Service | None) -> str:
        """The namespace, if something of it is another now."""
        namespace, _, hostname = key.partition("/")
        host = self._host(service) if service is not None else None
        if self._hosts.get(namespace, {}).get(hostname) == host:
            return ""
        if host is not None:
            self._hosts.setdefault(namespace, {})[hostname] = host
        else:
            del self._hosts[namespace][hostname]
            if not self._hosts[namespace]:
                del self._hosts[namespace]
        return namespace

    def _host(self, service: Service) -> Host | None:
        """None for what is no name, or has no address but what its own resolvers say."""
        hostname = service.hostname.lower()
        if not is_name(hostname) or not (service.addresses or hostname.endswith(f".svc.{self._directory.domain}")):
            return None
        private = service.visibility is Visibility.NAMESPACE
        return Host(hostname, tuple(one.address for one in service.addresses), private=private)
