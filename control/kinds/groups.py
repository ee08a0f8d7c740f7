"""Istio's WorkloadGroup: what the workloads of virtual machines that join by themselves have in common."""

from typing import ClassVar

from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.networking import EntryWorkload
from meshapi.wire import DEFAULT_SERVICE_ACCOUNT


class GroupMetadata(Struct, frozen=True):
    """What its WorkloadEntries get."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class HTTPHeader(Struct, frozen=True):
    name: str
    value: str = ""


class HTTPProbe(Struct, frozen=True, rename="camel"):
    port: int
    path: str = ""
    host: str = ""
    scheme: str = ""
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPProbe(Struct, frozen=True):
    port: int
    host: str = ""


class ExecProbe(Struct, frozen=True):
    command: tuple[str, ...]


class GRPCProbe(Struct, frozen=True):
    port: int
    service: str = ""


class ReadinessProbe(Struct, frozen=True, rename="camel"):
    """Exactly one of the four ways; numbers that are 0 have Kubernetes' defaults."""

    initial_delay_seconds: int = 0
    timeout_seconds: int = 0
    period_seconds: int = 0
    success_threshold: int = 0
    failure_threshold: int = 0
    http_get: HTTPProbe | None = None
    tcp_socket: TCPProbe | None = None
    exec: ExecProbe | None = None
    grpc: GRPCProbe | None = None


class WorkloadGroupSpec(Struct, frozen=True):
    template: EntryWorkload
    metadata: GroupMetadata = GroupMetadata()
    probe: ReadinessProbe | None = None


class WorkloadGroup(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.WORKLOAD_GROUP
    spec: WorkloadGroupSpec

    @property
    def service_account(self) -> str:
        """Whose identity its workloads have."""
        return self.spec.template.service_account or DEFAULT_SERVICE_ACCOUNT
