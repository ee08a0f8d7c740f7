"""Access logs: a line for each request and each TCP connection where Telemetry or the mesh configuration asks for it.

Lines go to the standard output of Envoy, which is that of the process beside it; other files of the proxy's host are nobody's to name.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from control.envoy.logging_rules import STANDARD_OUTPUT, Output, logging_at
from control.envoy.messages import Message, new
from control.envoy.metric_rules import metrics_at
from control.envoy.parts import PEER_ADDRESS, extension
from control.envoy.place import Place
from control.envoy.proxies import ProxyKind, find_proxy
from control.envoy.reports import PERIOD_S, connection_reports, request_reports, struct
from control.envoy.world import World
from control.kinds.mesh_config import LogCollector, LogEncoding, LogFormat, OpenTelemetryLog

_LOG: Final = "envoy.config.accesslog.v3.AccessLog"
FIELDS: Final[dict[str, str]] = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
}
"""Istio's fields by the names that they have in JSON, in the order in which a line of text has them."""
_BEHIND_TUNNELS: Final = {**FIELDS, "downstream_remote_address": f"%FILTER_STATE({PEER_ADDRESS}:PLAIN)%"}
"""At waypoints, where Envoy's own operator believes what the request says of its client (`x-forwarded-for`): who called, not for whom."""
_QUOTED: Final = frozenset(
    ("upstream_transport_failure_reason", "x_forwarded_for", "user_agent", "request_id", "authority", "upstream_host"),
)
_LOG_NAME: Final = "listener_envoy_accesslog"
_OTEL_NAME: Final = "otel_envoy_accesslog"
"""What Istio calls them where nobody does."""
_OUTPUTS: Final = {STANDARD_OUTPUT: "stream.v3.StdoutAccessLog", "/dev/stderr": "stream.v3.StderrAccessLog"}
_ENDED: Final = {"log_type_filter": {"types": ["NotSet", "TcpConnectionEnd", "DownstreamEnd"]}}
"""One line each: of connections that last, reports tell."""


def request_logs(world: World, place: Place) -> dict[str, Any]:
    """The fields of a connection manager."""
    reports = [request_reports()] if world.ask(metrics_at, place).of_requests else []
    return {"access_log": [*_lines(world, place), *_told(world, place, requests=True), *reports]}


def connection_logs(world: World, place: Place) -> dict[str, Any]:
    """The fields of a TCP proxy."""
    told = {"flush_access_log_on_connected": True, "access_log_flush_interval": {"seconds": PERIOD_S}}
    reports = [connection_reports()] if world.ask(metrics_at, place).of_connections else []
    logs = [*_lines(world, place), *_told(world, place, requests=False), *reports]
    return {"access_log": logs, "access_log_options": told}


def _lines(world: World, place: Place) -> Iterator[Message]:
    """The AccessLog messages that write lines; none unless asked for."""
    fields = _fields(world, place)
    for output in world.ask(logging_at, place).outputs:
        kind = f"access_loggers.{_OUTPUTS[output.path]}"
        yield new(_LOG, filter=_chosen(output.expression), **extension("lines", kind, log_format=_format(output, fields)))


def _told(world: World, place: Place, *, requests: bool) -> Iterator[Message]:
    """Those that tell collectors: Envoy's own service of requests or of connections, OTLP of both."""
    for told in world.ask(logging_at, place).told:
        otel, als = told.provider.envoy_otel_als, told.provider.envoy_http_als if requests else told.provider.envoy_tcp_als
        service = {"envoy_grpc": {"cluster_name": told.cluster.name, "authority": told.cluster.hostname}}
        common = {"transport_api_version": "V3", "grpc_service": service}
        if otel is not None:
            yield new(_LOG, filter=_chosen(told.expression), **_by_otlp(otel, common, _fields(world, place)))
        elif als is not None:
            common |= {"log_name": als.log_name or _LOG_NAME, "filter_state_objects_to_log": als.filter_state_objects_to_log}
            yield new(_LOG, filter=_chosen(told.expression), **(_by_service(als, common) if requests else _of_tcp(common)))


def _by_otlp(otel: OpenTelemetryLog, common: dict[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    stated = otel.log_format or LogFormat()
    attributes = [{"key": name, "value": {"string_value": text}} for name, text in stated.labels.items()]
    return extension(
        "otlp",
        "access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        common_config={**common, "log_name": otel.log_name or _OTEL_NAME},
        body={"string_value": stated.text or _line(fields)},
        attributes={"values": attributes},
    )


def _by_service(als: LogCollector, common: dict[str, Any]) -> dict[str, Any]:
    return extension(
        "told",
        "access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config=common,
        additional_request_headers_to_log=als.additional_request_headers_to_log,
        additional_response_headers_to_log=als.additional_response_headers_to_log,
        additional_response_trailers_to_log=als.additional_response_trailers_to_log,
    )


def _of_tcp(common: dict[str, Any]) -> dict[str, Any]:
    return extension("told", "access_loggers.grpc.v3.TcpGrpcAccessLogConfig", common_config=common)


def _chosen(expression: str) -> dict[str, Any]:
    if not expression:
        return _ENDED
    by_cel = {"extension_filter": extension("cel", "access_loggers.filters.cel.v3.ExpressionFilter", expression=expression)}
    return {"and_filter": {"filters": [_ENDED, by_cel]}}


def _fields(world: World, place: Place) -> Mapping[str, str]:
    proxy = world.ask(find_proxy, place.proxy)
    return _BEHIND_TUNNELS if proxy is not None and proxy.kind is ProxyKind.WAYPOINT else FIELDS


def _format(output: Output, fields: Mapping[str, str]) -> dict[str, Any]:
    labels = output.labels
    if labels is None and not output.text and output.encoding is LogEncoding.JSON:
        labels = dict(fields)
    if labels is not None:
        return {"json_format": struct(labels), "omit_empty_values": output.omit_empty}
    line = output.text or _line(fields)
    return {
        "text_format_source": {"inline_string": line if line.endswith("\n") else f"{line}\n"},
        "omit_empty_values": output.omit_empty,
    }


def _line(fields: Mapping[str, str]) -> str:
    request = f'"{fields["method"]} {fields["path"]} {fields["protocol"]}"'
    others = [f'"{value}"' if name in _QUOTED else value for name, value in list(fields.items())[4:]]
    return " ".join([f"[{fields['start_time']}]", request, *others])
