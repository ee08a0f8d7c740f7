"""What Envoy reports to the process beside it of each request and connection, for metrics: by its access log service, in batches.

What labels are made of comes as tags, each under a key of `Tag`: whose certificate the client had, which service was dialled and which
one was called, who answered. Nothing that a peer merely claims is among it: headers become no labels.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from control.envoy.catalogue import CatalogService, Endpoint
from control.envoy.messages import Message, new
from control.envoy.parts import IDENTITY, PEER, SDS_CLUSTER, extension
from control.kinds.telemetry import Metric
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import Workload

SERVICE: Final = "nodemesh.service"
"""The metadata of a filter chain or cluster that says whose it is: `service`, a `service_text`."""
WORKLOAD: Final = "istio"
"""The metadata of an endpoint that says which workload it is, as Istio has it: `workload`, a `workload_text`."""
PERIOD_S: Final = 5
"""How often connections that last are reported."""
_FLUSH_S: Final = 1
_FIRST_ERROR: Final = 400
_BUFFER_BYTES: Final = 64 * 1024
_SEPARATOR: Final = ";"
_LOG: Final = "envoy.config.accesslog.v3.AccessLog"


class Tag(StrEnum):
    """What each tag says; one without a value is left out."""

    PEER = "peer"
    """The client's SPIFFE id."""
    DIALLED = "dialled"
    """The service that the filter chain is of."""
    CALLED = "called"
    """The service whose cluster was chosen."""
    WORKLOAD = "workload"
    """The endpoint that was chosen."""
    IDENTITY = "identity"
    """Who it must be."""
    EXPECTED = "expected"
    """Who must be at a workload that was dialled itself."""
    OWN = "own"
    """Who this proxy is, where it is the one that calls: a gateway."""
    RULES = "rules"
    """Of which there are no metrics, or labels: a `rules_text`."""
    GRPC = "grpc"
    """The status of a gRPC call, a number."""
    FLAGS = "flags"
    """Envoy's response flags."""


_VALUES: Final = {
    Tag.PEER: f"%FILTER_STATE({PEER}:PLAIN)%",
    Tag.DIALLED: f"%METADATA(LISTENER_FILTER_CHAIN:{SERVICE}:service)%",
    Tag.CALLED: f"%METADATA(CLUSTER:{SERVICE}:service)%",
    Tag.WORKLOAD: f"%METADATA(UPSTREAM_HOST:{WORKLOAD}:workload)%",
    Tag.IDENTITY: f"%METADATA(UPSTREAM_HOST:{IDENTITY}:identity)%",
    Tag.EXPECTED: f"%METADATA(LISTENER_FILTER_CHAIN:{IDENTITY}:identity)%",
    Tag.OWN: f"%METADATA(LISTENER_FILTER_CHAIN:{SERVICE}:own)%",
    Tag.RULES: f"%METADATA(LISTENER_FILTER_CHAIN:{SERVICE}:metrics)%",
    Tag.GRPC: "%GRPC_STATUS_NUMBER%",
    Tag.FLAGS: "%RESPONSE_FLAGS%",
}


def request_reports() -> Message:
    """The AccessLog of a connection manager."""
    return new(_LOG, **extension("reports", "access_loggers.grpc.v3.HttpGrpcAccessLogConfig", common_config=_common()))


def refusal_reports() -> Message:
    """The AccessLog of who ends tunnels: of those that it refuses alone. Every other carries requests, which are told of themselves."""
    refused = {"op": "GE", "value": {"default_value": _FIRST_ERROR, "runtime_key": "nodemesh.refused_tunnels"}}
    found = request_reports()
    found.filter.MergeFrom(new("envoy.config.accesslog.v3.AccessLogFilter", status_code_filter={"comparison": refused}))
    return found


def connection_reports() -> Message:
    """That of a TCP proxy, which is to tell of connections when they begin, every `PERIOD_S` and when they end."""
    return new(_LOG, **extension("reports", "access_loggers.grpc.v3.TcpGrpcAccessLogConfig", common_config=_common()))


def service_metadata(service: CatalogService, rules: str = "") -> dict[str, Any]:
    """The metadata of what is a service's; `rules`: of its metrics."""
    text = _joined(service.hostname, service.namespace, service.name)
    return {"filter_metadata": {SERVICE: struct({"service": text} | _stated(rules))}}


def identity_metadata(identity: str, rules: str = "") -> dict[str, Any]:
    """The metadata of a chain for workloads of one identity; empty: of none that is known."""
    found = {IDENTITY: struct({"identity": identity})} if identity else {}
    return {"filter_metadata": found | ({SERVICE: struct(_stated(rules))} if rules else {})}


def gateway_metadata(own: WorkloadIdentity, rules: str = "") -> dict[str, Any]:
    """The metadata of a gateway's chain."""
    return {"filter_metadata": {SERVICE: struct({"own": str(own)} | _stated(rules))}}


def _stated(rules: str) -> dict[str, str]:
    return {"metrics": rules} if rules else {}


def workload_metadata(endpoint: Endpoint) -> dict[str, str]:
    """What stands under `WORKLOAD`: `name;namespace;canonical name;canonical revision;cluster`."""
    parts = (endpoint.workload_name or endpoint.name, endpoint.namespace, *endpoint.canonical, endpoint.cluster)
    return {"workload": _joined(*parts)}


def workload_text(workload: Workload) -> str:
    """The same of a workload that is no endpoint."""
    canonical = (workload.canonical_name, workload.canonical_revision)
    return _joined(workload.workload_name or workload.name, workload.namespace, *canonical, workload.cluster)


def split(text: str, parts: int) -> tuple[str, ...]:
    """The parts of a text that was joined here; empty ones for what is missing."""
    found = text.split(_SEPARATOR)
    return tuple(found[:parts]) + ("",) * (parts - len(found))


class MetricRule(Struct, frozen=True):
    """That a metric is not there, or has not these labels."""

    disabled: bool = False
    removed: frozenset[str] = frozenset()


def rules_text(rules: Mapping[Metric, MetricRule]) -> str:
    """`REQUEST_SIZE=!;REQUEST_COUNT=source_app,source_version`: no such metric, and one without these labels."""
    stated = {metric: "!" if rule.disabled else ",".join(sorted(rule.removed)) for metric, rule in rules.items()}
    return _SEPARATOR.join(f"{metric}={text}" for metric, text in sorted(stated.items()) if text)


def read_rules(text: str) -> dict[str, MetricRule]:
    """The other way round, by the metrics' names; what is none of these texts says nothing."""
    found: dict[str, MetricRule] = {}
    for part in text.split(_SEPARATOR):
        metric, _, stated = part.partition("=")
        found[metric] = MetricRule(stated == "!", frozenset(stated.split(",")) if stated != "!" else frozenset())
    return found


def struct(values: dict[str, str]) -> Message:
    return new("google.protobuf.Struct", fields={key: {"string_value": value} for key, value in values.items()})


def _joined(*parts: str) -> str:
    return _SEPARATOR.join(part.replace(_SEPARATOR, "_") for part in parts)


def _common() -> dict[str, Any]:
    # Equal everywhere, whatever the place: Envoy keeps a stream for each form of it and each of its threads.
    return {
        "log_name": "reports",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": SDS_CLUSTER}},
        "buffer_flush_interval": {"seconds": _FLUSH_S},
        "buffer_size_bytes": {"value": _BUFFER_BYTES},
        "custom_tags": [{"tag": str(tag), "value": value} for tag, value in _VALUES.items()],
    }
