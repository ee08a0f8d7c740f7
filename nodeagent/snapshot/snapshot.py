"""The snapshot: everything that the agent knows of the mesh at one moment, indexed the ways that decisions look things up."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network

from meshapi import wire
from meshapi.workload import IPAddress, NetworkMode, Service, ServiceKey, Workload, WorkloadUID
from nodeagent.policy.compiled import CompiledPolicy
from nodeagent.snapshot.persistent import PersistentMap
from nodeagent.snapshot.view import Missing, NodeProbes, address_dependency

GLOBAL_NAMESPACE = ""
"""Under which policies of global scope are indexed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Immutable; `update.apply` makes the next one. Implements `View`."""

    generation: int = 0
    root_namespace: str = wire.DEFAULT_ROOT_NAMESPACE
    workloads: PersistentMap[WorkloadUID, Workload] = field(default_factory=PersistentMap)
    workload_addresses: PersistentMap[str, tuple[WorkloadUID, ...]] = field(default_factory=PersistentMap)
    """By `network/ip`; where two claim an address (one pod gone, the next there already) the latest comes last."""
    services: PersistentMap[ServiceKey, Service] = field(default_factory=PersistentMap)
    service_addresses: PersistentMap[str, tuple[ServiceKey, ...]] = field(default_factory=PersistentMap)
    """By `network/ip`, or `network/ip/prefix` of a block."""
    service_blocks: frozenset[tuple[int, int]] = frozenset()
    """(IP version, prefix bits) of the blocks that services have had."""
    service_members: PersistentMap[ServiceKey, frozenset[WorkloadUID]] = field(default_factory=PersistentMap)
    absent: PersistentMap[str, Missing] = field(default_factory=PersistentMap)
    """Keys (uid, `namespace/hostname`, `network/ip`) of which the controller said that they name nothing, or nothing that is understood."""
    answered: PersistentMap[str, bool] = field(default_factory=PersistentMap)
    """Keys that the controller was asked about and has answered with what it knows: what else may stand there would have come, too."""
    policies_by_key: PersistentMap[str, CompiledPolicy] = field(default_factory=PersistentMap)
    policies_by_namespace: PersistentMap[str, tuple[CompiledPolicy, ...]] = field(default_factory=PersistentMap)
    rejected: PersistentMap[str, str] = field(default_factory=PersistentMap)
    """Policies that could not be understood, with the error."""
    policies_arrived: bool = False
    local_identities: PersistentMap[WorkloadUID, str] = field(default_factory=PersistentMap)
    probe_sources: frozenset[IPAddress] = frozenset()
    """The node's addresses, while plaintext from there counts as probes."""
    probe_ports: PersistentMap[WorkloadUID, frozenset[int]] = field(default_factory=PersistentMap)
    """Of the workloads of this node that declare any."""

    unit_ports: PersistentMap[WorkloadUID, frozenset[int]] = field(default_factory=PersistentMap)
    """Of the workloads of this node that share its network: which ports of that are theirs."""

    def workload(self, uid: WorkloadUID) -> Workload | Missing:
        return self.workloads.get(uid) or self._missing(uid)

    def local_identity(self, uid: WorkloadUID) -> str | None:
        return self.local_identities.get(uid)

    def unit_ports_of(self, uid: WorkloadUID) -> frozenset[int] | None:
        return self.unit_ports.get(uid)

    def probes(self, uid: WorkloadUID) -> NodeProbes:
        ports = self.probe_ports.get(uid)
        return NodeProbes(self.probe_sources, ports) if ports and self.probe_sources else NodeProbes()

    def address(self, network: str, address: IPAddress) -> Workload | tuple[Service, ...] | Missing:
        own = self._known(self.service_addresses.get(address_dependency(network, address)) or ())
        if own:
            return own
        workload = self.workload_at(network, address)
        # A block says nothing of the single address: that is asked for, and a workload that has it goes first.
        return (self._known(self._blocks_at(network, address)) or workload) if workload is Missing.ABSENT else workload

    def workload_at(self, network: str, address: IPAddress) -> Workload | Missing:
        key = address_dependency(network, address)
        uids = self.workload_addresses.get(key)
        found = [self.workloads.get(uid) for uid in uids or ()]
        # The node's address is nobody's own: several pods share it, and none may be taken for another.
        own = [workload for workload in found if workload is not None and workload.network_mode is not NetworkMode.HOST_NETWORK]
        if own:
            return own[-1]
        return self.absent.get(key) or (Missing.ABSENT if key in self.answered else Missing.UNKNOWN)

    def service(self, key: ServiceKey) -> Service | None:
        return self.services.get(key)

    def find_service(self, key: ServiceKey) -> Service | Missing:
        return self.services.get(key) or self._missing(key)

    def members(self, key: ServiceKey) -> Iterable[Workload]:
        for uid in self.service_members.get(key) or ():
            workload = self.workloads.get(uid)
            if workload is not None:
                yield workload

    def policies_known(self) -> bool:
        return self.policies_arrived

    def policies(self, namespace: str) -> tuple[CompiledPolicy, ...]:
        return (self.policies_by_namespace.get(GLOBAL_NAMESPACE) or ()) + (self.policies_by_namespace.get(namespace) or ())

    def policy(self, key: str) -> CompiledPolicy | None:
        return self.policies_by_key.get(key)

    def rejected_policies(self, namespace: str) -> tuple[str, ...]:
        if not self.rejected:
            return ()
        # Of what scope a policy is that can't be read is not known: all workloads that it could hold for are meant.
        namespaces = {namespace, self.root_namespace, GLOBAL_NAMESPACE}
        return tuple(sorted(key for key in self.rejected if key.partition("/")[0] in namespaces and key not in self.policies_by_key))

    def _missing(self, key: str) -> Missing:
        return self.absent.get(key) or Missing.UNKNOWN

    def _known(self, keys: Iterable[ServiceKey]) -> tuple[Service, ...]:
        return tuple(service for key in keys if (service := self.services.get(key)) is not None)

    def _blocks_at(self, network: str, address: IPAddress) -> tuple[ServiceKey, ...]:
        for version, bits in sorted(self.service_blocks, reverse=True):
            if version == address.version:
                keys = self.service_addresses.get(block_key(network, address, bits))
                if keys:
                    return keys
        return ()


def block_key(network: str, address: IPAddress, prefix_bits: int) -> str:
    """`network/ip/prefix` of the block around an address."""
    return f"{network}/{ip_network((address, prefix_bits), strict=False)}"
