"""Istio's ServiceEntry and WorkloadEntry: services and workloads that Kubernetes does not know."""

from typing import ClassVar

from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind


class EntryPort(Struct, frozen=True, rename="camel"):
    number: int
    name: str = ""
    protocol: str = ""
    target_port: int = 0


class EntryWorkload(Struct, frozen=True, rename="camel"):
    """An endpoint: the spec of a WorkloadEntry, also inline in a ServiceEntry."""

    address: str = ""
    ports: dict[str, int] = {}
    labels: dict[str, str] = {}
    network: str = ""
    locality: str = ""
    weight: int = 0
    service_account: str = ""


class EntrySelector(Struct, frozen=True):
    labels: dict[str, str] = {}


class ServiceEntrySpec(Struct, frozen=True, rename="camel"):
    hosts: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    ports: tuple[EntryPort, ...] = ()
    resolution: str = "NONE"
    endpoints: tuple[EntryWorkload, ...] = ()
    workload_selector: EntrySelector | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()


class ServiceEntry(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.SERVICE_ENTRY
    spec: ServiceEntrySpec

    @property
    def selector(self) -> dict[str, str]:
        return self.spec.workload_selector.labels if self.spec.workload_selector else {}

    @property
    def resolves_by_name(self) -> bool:
        """Whether its hosts are their own endpoints, to be looked up in DNS."""
        by_dns = self.spec.resolution in {"DNS", "DNS_ROUND_ROBIN"}
        return by_dns and not self.spec.endpoints and self.spec.workload_selector is None


class EntryCondition(Struct, frozen=True):
    type: str = ""
    status: str = ""


class EntryStatus(Struct, frozen=True):
    conditions: tuple[EntryCondition, ...] = ()


class WorkloadEntry(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.WORKLOAD_ENTRY
    spec: EntryWorkload
    status: EntryStatus = EntryStatus()

    @property
    def labels(self) -> dict[str, str]:
        """Labels may stand in either place; the specification's win."""
        return {**self.metadata.labels, **self.spec.labels}
