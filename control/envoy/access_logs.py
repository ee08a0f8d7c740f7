"""Access logs: what the mesh configuration asks for, a line for each request and each TCP connection, in Istio's format by default.

Lines go to the standard output of Envoy, which is that of the process beside it; other files of the proxy's host are nobody's to name.
"""

from typing import Any, Final

from control.envoy.mesh_options import mesh_options
from control.envoy.messages import Message, new
from control.envoy.parts import extension
from control.envoy.reports import PERIOD_S, connection_reports, request_reports
from control.envoy.world import World
from control.kinds.mesh_config import LogEncoding
from control.validation import log_formats

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
_QUOTED: Final = frozenset(
    ("upstream_transport_failure_reason", "x_forwarded_for", "user_agent", "request_id", "authority", "upstream_host"),
)
_OUTPUTS: Final = {"/dev/stdout": "stream.v3.StdoutAccessLog", "/dev/stderr": "stream.v3.StderrAccessLog"}


def request_logs(world: World) -> dict[str, Any]:
    """The fields of a connection manager."""
    return {"access_log": [*world.ask(_lines), request_reports()]}


def connection_logs(world: World) -> dict[str, Any]:
    """The fields of a TCP proxy."""
    told = {"flush_access_log_on_connected": True, "access_log_flush_interval": {"seconds": PERIOD_S}}
    return {"access_log": [*world.ask(_lines), connection_reports()], "access_log_options": told}


def _lines(world: World) -> tuple[Message, ...]:
    """The AccessLog messages that write lines; none unless asked for."""
    options = world.ask(mesh_options)
    if not options.access_log_file:
        return ()
    written = _json(options.access_log_format) if options.access_log_encoding is LogEncoding.JSON else _text(options.access_log_format)
    kind = f"access_loggers.{_OUTPUTS[options.access_log_file]}"
    # One line each: of connections that last, reports tell.
    ended = {"log_type_filter": {"types": ["NotSet", "TcpConnectionEnd", "DownstreamEnd"]}}
    return (new("envoy.config.accesslog.v3.AccessLog", filter=ended, **extension("lines", kind, log_format=written)),)


def _text(text: str) -> dict[str, Any]:
    line = text or _line()
    return {"text_format_source": {"inline_string": line if line.endswith("\n") else f"{line}\n"}}


def _json(text: str) -> dict[str, Any]:
    shown = log_formats.fields(text) if text else FIELDS
    return {"json_format": new("google.protobuf.Struct", fields={name: {"string_value": value} for name, value in shown.items()})}


def _line() -> str:
    request = f'"{FIELDS["method"]} {FIELDS["path"]} {FIELDS["protocol"]}"'
    others = [f'"{value}"' if name in _QUOTED else value for name, value in list(FIELDS.items())[4:]]
    return " ".join([f"[{FIELDS['start_time']}]", request, *others])
