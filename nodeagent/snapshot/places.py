"""One update of workloads, services and the indexes over them, in progress."""

from meshapi.workload import NetworkAddress, Service, ServiceKey, Workload, WorkloadUID
from nodeagent.policy.addresses import plain
from nodeagent.snapshot.overlay import Overlay, with_item, without_item
from nodeagent.snapshot.snapshot import Snapshot, block_key
from nodeagent.snapshot.view import Missing, address_dependency

BLOCKS_TOUCHED = "blocks:"
"""Touched when a service with a block of addresses changes: it may hold any address."""


class PlacesEdit:
    """Collects changes of a snapshot's workloads and services, and what they touch."""

    def __init__(self, base: Snapshot) -> None:
        self.touched: set[str] = set()
        self.workloads: Overlay[WorkloadUID, Workload] = Overlay(base.workloads)
        self.workload_addresses: Overlay[str, tuple[WorkloadUID, ...]] = Overlay(base.workload_addresses)
        self.services: Overlay[ServiceKey, Service] = Overlay(base.services)
        self.service_addresses: Overlay[str, tuple[ServiceKey, ...]] = Overlay(base.service_addresses)
        self.members: Overlay[ServiceKey, frozenset[WorkloadUID]] = Overlay(base.service_members)
        self.absent: Overlay[str, Missing] = Overlay(base.absent)
        self.answered: Overlay[str, bool] = Overlay(base.answered)
        self.blocks = set(base.service_blocks)

    def put_workload(self, workload: Workload) -> None:
        self._drop_workload(workload.uid)
        self.workloads.put(workload.uid, workload)
        self._found(workload.uid)
        for key in _address_keys(workload):
            self.workload_addresses.put(key, with_item(self.workload_addresses.get(key), workload.uid))
            self._found(key)
        for service in workload.services:
            self.members.put(service, (self.members.get(service) or frozenset()) | {workload.uid})
            self.touched.add(service)

    def put_service(self, service: Service) -> None:
        self._drop_service(service.key)
        self.services.put(service.key, service)
        self._found(service.key)
        for address in service.addresses:
            key = self._index_key(address)
            self.service_addresses.put(key, with_item(self.service_addresses.get(key), service.key))
            self._found(key)

    def remove(self, name: str) -> None:
        """What has this primary key is not known any more."""
        self._drop_workload(WorkloadUID(name))
        self._drop_service(ServiceKey(name))

    def set_missing(self, key: str, why: Missing) -> None:
        """The controller says that this key names nothing, or something that can't be understood."""
        self.absent.put(key, why)
        self.touched.add(key)

    def set_answered(self, key: str) -> None:
        """The controller was asked for this key, and said what there is."""
        if not self.answered.get(key):
            self.answered.put(key, value=True)
            self.touched.add(key)

    def forget(self, key: str) -> None:
        """Nobody asks for this key any more: that it names nothing, or nothing else, is known no longer."""
        self.answered.put(key, None)
        self._found(key)

    def _found(self, key: str) -> None:
        self.absent.put(key, None)
        self.touched.add(key)

    def _drop_workload(self, uid: WorkloadUID) -> None:
        workload = self.workloads.get(uid)
        if workload is None:
            return
        self.workloads.put(uid, None)
        self.touched.add(uid)
        for key in _address_keys(workload):
            self.workload_addresses.put(key, without_item(self.workload_addresses.get(key), uid))
            self.touched.add(key)
        for service in workload.services:
            self.members.put(service, ((self.members.get(service) or frozenset()) - {uid}) or None)
            self.touched.add(service)

    def _drop_service(self, name: ServiceKey) -> None:
        service = self.services.get(name)
        if service is None:
            return
        self.services.put(name, None)
        self.touched.add(name)
        for address in service.addresses:
            key = self._index_key(address)
            self.service_addresses.put(key, without_item(self.service_addresses.get(key), name))
            self.touched.add(key)

    def _index_key(self, address: NetworkAddress) -> str:
        ip, bits = plain(address.address), address.prefix_bits
        if bits is None or bits == address.address.max_prefixlen:
            return address_dependency(address.network, ip)
        bits -= address.address.max_prefixlen - ip.max_prefixlen  # of an IPv4-mapped block: the bits within IPv4
        bits = max(bits, 0)
        self.blocks.add((ip.version, bits))
        self.touched.add(BLOCKS_TOUCHED)
        return block_key(address.network, ip, bits)


def _address_keys(workload: Workload) -> list[str]:
    return [address_dependency(workload.network, plain(address)) for address in workload.addresses]
