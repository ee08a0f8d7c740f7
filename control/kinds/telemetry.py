"""Istio's Telemetry: what is told of traffic, for the mesh, a namespace, or what it names."""

from enum import StrEnum
from typing import ClassVar

from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.security import PolicyProvider, PolicyTarget, Selector
from control.kinds.tracing import CustomTag


class WorkloadMode(StrEnum):
    """At which end of a call; a waypoint is its server's."""

    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"


class Match(Struct, frozen=True, forbid_unknown_fields=True):
    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER


class LoggingFilter(Struct, frozen=True, forbid_unknown_fields=True):
    """`expression`: CEL, true for what is logged."""

    expression: str = ""


class AccessLogging(Struct, frozen=True, forbid_unknown_fields=True):
    """Without providers those of the next wider object hold, or else the mesh's."""

    match: Match = Match()
    providers: tuple[PolicyProvider, ...] = ()
    disabled: bool = False
    filter: LoggingFilter | None = None


class Metric(StrEnum):
    """Istio's names of them."""

    ALL_METRICS = "ALL_METRICS"
    REQUEST_COUNT = "REQUEST_COUNT"
    REQUEST_DURATION = "REQUEST_DURATION"
    REQUEST_SIZE = "REQUEST_SIZE"
    RESPONSE_SIZE = "RESPONSE_SIZE"
    TCP_OPENED_CONNECTIONS = "TCP_OPENED_CONNECTIONS"
    TCP_CLOSED_CONNECTIONS = "TCP_CLOSED_CONNECTIONS"
    TCP_SENT_BYTES = "TCP_SENT_BYTES"
    TCP_RECEIVED_BYTES = "TCP_RECEIVED_BYTES"
    GRPC_REQUEST_MESSAGES = "GRPC_REQUEST_MESSAGES"
    GRPC_RESPONSE_MESSAGES = "GRPC_RESPONSE_MESSAGES"


class MetricMatch(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    metric: Metric = Metric.ALL_METRICS
    custom_metric: str = ""
    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER


class TagOperation(StrEnum):
    UPSERT = "UPSERT"
    REMOVE = "REMOVE"


class TagOverride(Struct, frozen=True, forbid_unknown_fields=True):
    operation: TagOperation = TagOperation.UPSERT
    value: str = ""


class MetricsOverride(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`disabled` None: as a wider object has it."""

    match: MetricMatch = MetricMatch()
    disabled: bool | None = None
    tag_overrides: dict[str, TagOverride] = {}


class Metrics(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    providers: tuple[PolicyProvider, ...] = ()
    overrides: tuple[MetricsOverride, ...] = ()
    reporting_interval: str = ""


class Tracing(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What is None is as a wider object has it, or the mesh configuration."""

    match: Match = Match()
    providers: tuple[PolicyProvider, ...] = ()
    random_sampling_percentage: float | None = None
    disable_span_reporting: bool | None = None
    custom_tags: dict[str, CustomTag] = {}
    use_request_id_for_trace_sampling: bool | None = None
    enable_istio_tags: bool | None = None
    disable_context_propagation: bool = False


class TelemetrySpec(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    selector: Selector | None = None
    target_ref: PolicyTarget | None = None
    target_refs: tuple[PolicyTarget, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    tracing: tuple[Tracing, ...] = ()


class Telemetry(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.TELEMETRY
    spec: TelemetrySpec = TelemetrySpec()

    @property
    def targets(self) -> tuple[PolicyTarget, ...]:
        return (*((self.spec.target_ref,) if self.spec.target_ref else ()), *self.spec.target_refs)
