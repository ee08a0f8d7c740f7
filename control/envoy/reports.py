"""What Envoy reports to the process beside it of each request and connection, for metrics: lines in a pipe, each of some fields.

A line costs Envoy a sixth of what its access log service does. What fields hold is the mesh's own word: whose certificate the
client had, which service was dialled and which one was called, who answered. Nothing that a peer merely claims is among it: headers become
no labels.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from control.envoy.catalogue import CatalogService, Endpoint
from control.envoy.messages import Message, new
from control.envoy.parts import PEER, PEER_ADDRESS, extension
from control.kinds.telemetry import Metric
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import Workload

PIPE: Final = "reports"
"""Where lines go: in the directory that Envoy runs in."""
SERVICE: Final = "nodemesh.service"
"""The metadata of a filter chain that says of what it is (`place`), and of a cluster (`service`)."""
WORKLOAD: Final = "istio"
"""The metadata of an endpoint that says which workload it is: `workload`, as Istio has it, with the identity behind it."""
PERIOD_S: Final = 5
"""How often connections that last are reported."""
MISSING: Final = "-"
FIELD: Final = "\t"
PLACE_PARTS: Final = 6
"""Host name, namespace and name of the service that is dialled; who must be at a workload that is dialled itself; who this proxy is, where
it is the one that calls; of which there are no metrics, or labels."""
SERVICE_PARTS: Final = 3
"""Host name, namespace, name."""
WORKLOAD_PARTS: Final = 6
"""Name, namespace, canonical name, canonical revision, cluster, identity."""
_FIRST_ERROR: Final = 400
_SEPARATOR: Final = ";"
_RULE: Final = "|"
_LOG: Final = "envoy.config.accesslog.v3.AccessLog"
_SAID: Final = (
    f"%FILTER_STATE({PEER}:PLAIN)%",
    f"%METADATA(LISTENER_FILTER_CHAIN:{SERVICE}:place)%",
    f"%METADATA(CLUSTER:{SERVICE}:service)%",
    f"%METADATA(UPSTREAM_HOST:{WORKLOAD}:workload)%",
    f"%FILTER_STATE({PEER_ADDRESS}:FIELD:ip)%",
    "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "%RESPONSE_FLAGS%",
)
"""Of requests and connections: the client's SPIFFE id, the place, the service and the endpoint that were chosen, addresses, flags."""


class Kind(StrEnum):
    """How a line begins."""

    REQUEST = "R"
    CONNECTION = "C"
    TUNNEL = "{"
    """One that was refused: an object of JSON, since it holds what a peer says."""


_REQUEST: Final = (
    Kind.REQUEST,
    *_SAID,
    "%RESPONSE_CODE%",
    "%GRPC_STATUS_NUMBER%",
    "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "%DURATION%",
    "%REQUEST_HEADERS_BYTES%",
    "%BYTES_RECEIVED%",
    "%RESPONSE_HEADERS_BYTES%",
    "%BYTES_SENT%",
)
_CONNECTION: Final = (
    Kind.CONNECTION,
    *_SAID,
    "%STREAM_ID%",
    "%ACCESS_LOG_TYPE%",
    "%UPSTREAM_REMOTE_ADDRESS%",
    "%CONNECTION_TERMINATION_DETAILS%",
    "%BYTES_RECEIVED%",
    "%BYTES_SENT%",
)
_TUNNEL: Final = {
    "status": "%RESPONSE_CODE%",
    "client": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    "peers": "%DOWNSTREAM_PEER_URI_SAN%",
    "authority": "%REQ(:AUTHORITY)%",
    "why": "%RESPONSE_CODE_DETAILS%",
}
ENDED: Final = "TcpConnectionEnd"
"""The type of a connection's last line."""


def request_reports() -> Message:
    """The AccessLog of a connection manager."""
    return _lines(_REQUEST)


def connection_reports() -> Message:
    """That of a TCP proxy, which is to tell of connections when they begin, every `PERIOD_S` and when they end."""
    return _lines(_CONNECTION)


def refusal_reports() -> Message:
    """That of who ends tunnels: of those that it refuses alone. Every other carries requests, which are told of themselves."""
    refused = {"op": "GE", "value": {"default_value": _FIRST_ERROR, "runtime_key": "nodemesh.refused_tunnels"}}
    log = extension("reports", _FILE, path=PIPE, log_format={"json_format": struct(_TUNNEL)})
    return new(_LOG, filter={"status_code_filter": {"comparison": refused}}, **log)


_FILE: Final = "access_loggers.file.v3.FileAccessLog"


def _lines(fields: tuple[str, ...]) -> Message:
    line = FIELD.join(fields) + "\n"
    return new(_LOG, **extension("reports", _FILE, path=PIPE, log_format={"text_format_source": {"inline_string": line}}))


def service_metadata(service: CatalogService) -> dict[str, Any]:
    """The metadata of a cluster that is a service's."""
    return {"filter_metadata": {SERVICE: struct({"service": service_text(service)})}}


def place_metadata(
    service: CatalogService | None = None, *, expected: str = "", own: WorkloadIdentity | None = None, rules: str = ""
) -> dict[str, Any]:
    """The metadata of a chain: of a service, of workloads that are dialled themselves and must be who they are, or of a gateway."""
    dialled = _service_parts(service) if service is not None else ("", "", "")
    text = joined(*dialled, expected, str(own) if own is not None else "", rules)
    return {"filter_metadata": {SERVICE: struct({"place": text})}}


def service_text(service: CatalogService) -> str:
    """`host name;namespace;name`."""
    return joined(*_service_parts(service))


def _service_parts(service: CatalogService) -> tuple[str, str, str]:
    return service.hostname, service.namespace, service.name


def workload_metadata(endpoint: Endpoint) -> dict[str, str]:
    """What stands under `WORKLOAD`."""
    known = (endpoint.workload_name or endpoint.name, endpoint.namespace, *endpoint.canonical, endpoint.cluster)
    return {"workload": joined(*known, str(endpoint.identity) if endpoint.identity is not None else "")}


def workload_text(workload: Workload) -> str:
    """The same of a workload that is no endpoint, without its identity."""
    canonical = (workload.canonical_name, workload.canonical_revision)
    return joined(workload.workload_name or workload.name, workload.namespace, *canonical, workload.cluster)


def split(text: str, parts: int) -> tuple[str, ...]:
    """The parts of a text that was joined here; empty ones for what is missing."""
    found = text.split(_SEPARATOR) if text != MISSING else []
    return tuple(found[:parts]) + ("",) * (parts - len(found))


class MetricRule(Struct, frozen=True):
    """That a metric is not there, or has not these labels."""

    disabled: bool = False
    removed: frozenset[str] = frozenset()


def rules_text(rules: Mapping[Metric, MetricRule]) -> str:
    """`REQUEST_SIZE=!|REQUEST_COUNT=source_app,source_version`: no such metric, and one without these labels."""
    stated = {metric: "!" if rule.disabled else ",".join(sorted(rule.removed)) for metric, rule in rules.items()}
    return _RULE.join(f"{metric}={text}" for metric, text in sorted(stated.items()) if text)


def read_rules(text: str) -> dict[str, MetricRule]:
    """The other way round, by the metrics' names; what is none of these texts says nothing."""
    found: dict[str, MetricRule] = {}
    for part in text.split(_RULE):
        metric, _, stated = part.partition("=")
        found[metric] = MetricRule(stated == "!", frozenset(stated.split(",")) if stated != "!" else frozenset())
    return found


def struct(values: dict[str, str]) -> Message:
    return new("google.protobuf.Struct", fields={key: {"string_value": value} for key, value in values.items()})


def joined(*parts: str) -> str:
    """One text, without anything in it that a line or a field ends with."""
    return _SEPARATOR.join(_cleaned(part) for part in parts)


def _cleaned(part: str) -> str:
    part = part.replace(_SEPARATOR, "_")
    return part if part.isprintable() else "".join(one if one.isprintable() else "_" for one in part)
