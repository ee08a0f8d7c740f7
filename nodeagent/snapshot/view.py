"""How decisions read a snapshot: through a view, so that a recording one can tell what an answer depended on."""

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple, Protocol

from meshapi.workload import AddressKey, IPAddress, Service, ServiceKey, Workload, WorkloadUID
from nodeagent.policy.addresses import address_text
from nodeagent.policy.compiled import CompiledPolicy


class Missing(Enum):
    """Three kinds of not being there, which are never confused."""

    ABSENT = "absent"
    """The controller said that it does not exist: an answer."""
    UNREADABLE = "unreadable"
    """The controller said what it is, in a way that this version does not understand: an answer, but not that there is nothing."""
    UNKNOWN = "unknown"
    """Never asked, or not answered yet: a reason to ask."""


PROBE_SOURCES: Final = "the node's addresses"
"""Touched when they change, or begin or cease to count."""


class NodeProbes(NamedTuple):
    """Plaintext that counts as a probe of a workload, for want of a better way to know one: from `sources` to `ports`."""

    sources: frozenset[IPAddress] = frozenset()
    ports: frozenset[int] = frozenset()

    def has(self, source: IPAddress, port: int) -> bool:
        """Whether this connection is one. `source` in plain form."""
        return port in self.ports and source in self.sources


class View(Protocol):
    """Looks things up; nothing of what it returns changes."""

    def workload(self, uid: WorkloadUID) -> Workload | Missing:
        """A workload by uid."""

    def local_identity(self, uid: WorkloadUID) -> str | None:
        """The SPIFFE id that the node itself gives a workload that runs on it."""

    def probes(self, uid: WorkloadUID) -> NodeProbes:
        """What counts as a probe of a workload of this node."""

    def unit_ports_of(self, uid: WorkloadUID) -> frozenset[int] | None:
        """The ports that are a workload's of a network that it shares with the rest of the node; None if its network is its own."""

    def address(self, network: str, address: IPAddress) -> Workload | tuple[Service, ...] | Missing:
        """Whose address it is: services before the workload (never an empty tuple)."""

    def workload_at(self, network: str, address: IPAddress) -> Workload | Missing:
        """The workload with this address."""

    def service(self, key: ServiceKey) -> Service | None:
        """A service, if it is known."""

    def find_service(self, key: ServiceKey) -> Service | Missing:
        """A service that is needed, so that it is asked for if it is not known."""

    def members(self, key: ServiceKey) -> Iterable[Workload]:
        """The workloads behind a service, as far as known."""

    def policies_known(self) -> bool:
        """Whether the whole of the policies has arrived once."""

    def policies(self, namespace: str) -> tuple[CompiledPolicy, ...]:
        """The policies of scope namespace and global that hold in a namespace."""

    def policy(self, key: str) -> CompiledPolicy | None:
        """A policy by `namespace/name`."""

    def rejected_policies(self, namespace: str) -> tuple[str, ...]:
        """`namespace/name` of the policies that may hold in a namespace but could not be understood, and have no last good form."""


def address_dependency(network: str, address: IPAddress) -> AddressKey:
    return AddressKey(f"{network}/{address_text(address)}")
