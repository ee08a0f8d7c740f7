"""What a patch may hold: an extension that is known to be harmless to the host, and no way to its files, environment, secrets or sockets.

An Envoy runs beside the process that holds a workload's key. Whoever writes a patch decides about requests, and about nothing else.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

from google.protobuf.message import DecodeError

from control.envoy.messages import Message, message_class, packed
from control.envoy.patches.lua import confined
from control.envoy.rbac.filters import HTTP_RBAC, SEATS
from control.kinds.rate_limits import DOMAIN
from control.validation import values

EXTENSIONS: Final = "envoy.extensions."
_HTTP: Final = f"{EXTENSIONS}filters.http."
_NETWORK: Final = f"{EXTENSIONS}filters.network."
MANAGER: Final = f"{_NETWORK}http_connection_manager.v3.HttpConnectionManager"
HTTP_OPTIONS: Final = f"{EXTENSIONS}upstreams.http.v3.HttpProtocolOptions"
LUA: Final = f"{_HTTP}lua.v3.Lua"
_LUA_PER_ROUTE: Final = f"{_HTTP}lua.v3.LuaPerRoute"
ANY: Final = "google.protobuf.Any"
LIMITING: Final = frozenset(
    f"{_HTTP}{name}"
    for name in (
        "adaptive_concurrency.v3.AdaptiveConcurrency",
        "admission_control.v3.AdmissionControl",
        "bandwidth_limit.v3.BandwidthLimit",
        "buffer.v3.Buffer",
        "csrf.v3.CsrfPolicy",
        "local_ratelimit.v3.LocalRateLimit",
    )
)
"""HTTP filters that let requests through as they are, or not at all: they may stand ahead of those that secure."""
HTTP_FILTERS: Final = LIMITING | frozenset(
    f"{_HTTP}{name}"
    for name in (
        "api_key_auth.v3.ApiKeyAuth",
        "basic_auth.v3.BasicAuth",
        "cdn_loop.v3.CdnLoopConfig",
        "compressor.v3.Compressor",
        "cors.v3.Cors",
        "custom_response.v3.CustomResponse",
        "decompressor.v3.Decompressor",
        "ext_authz.v3.ExtAuthz",
        "ext_proc.v3.ExternalProcessor",
        "fault.v3.HTTPFault",
        "grpc_http1_bridge.v3.Config",
        "grpc_http1_reverse_bridge.v3.FilterConfig",
        "grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "grpc_stats.v3.FilterConfig",
        "grpc_web.v3.GrpcWeb",
        "header_mutation.v3.HeaderMutation",
        "header_to_metadata.v3.Config",
        "health_check.v3.HealthCheck",
        "ip_tagging.v3.IPTagging",
        "json_to_metadata.v3.JsonToMetadata",
        "jwt_authn.v3.JwtAuthentication",
        "lua.v3.Lua",
        # Who is asked for limits may have headers added.
        "ratelimit.v3.RateLimit",
        "rbac.v3.RBAC",
        "router.v3.Router",
        "set_metadata.v3.Config",
        "stateful_session.v3.StatefulSession",
    )
)
NETWORK_FILTERS: Final = frozenset(
    f"{_NETWORK}{name}"
    for name in (
        "connection_limit.v3.ConnectionLimit",
        "ext_authz.v3.ExtAuthz",
        "local_ratelimit.v3.LocalRateLimit",
        "ratelimit.v3.RateLimit",
        "rbac.v3.RBAC",
    )
)
"""Network filters that close connections, or let them through."""
_OTHERS: Final = frozenset(
    (
        *(f"{_HTTP}{name}" for name in (
            "api_key_auth.v3.ApiKeyAuthPerRoute",
            "basic_auth.v3.BasicAuthPerRoute",
            "buffer.v3.BufferPerRoute",
            "compressor.v3.CompressorPerRoute",
            "cors.v3.CorsPolicy",
            "ext_authz.v3.ExtAuthzPerRoute",
            "ext_proc.v3.ExtProcPerRoute",
            "grpc_http1_reverse_bridge.v3.FilterConfigPerRoute",
            "header_mutation.v3.HeaderMutationPerRoute",
            "jwt_authn.v3.PerRouteConfig",
            "lua.v3.LuaPerRoute",
            "ratelimit.v3.RateLimitPerRoute",
            "rbac.v3.RBACPerRoute",
            "stateful_session.v3.StatefulSessionPerRoute",
        )),
        MANAGER,
        f"{_NETWORK}tcp_proxy.v3.TcpProxy",
        HTTP_OPTIONS,
        "envoy.config.route.v3.FilterConfig",
        f"{EXTENSIONS}access_loggers.stream.v3.StderrAccessLog",
        f"{EXTENSIONS}access_loggers.stream.v3.StdoutAccessLog",
        f"{EXTENSIONS}filters.listener.proxy_protocol.v3.ProxyProtocol",
        f"{EXTENSIONS}http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
        f"{EXTENSIONS}request_id.uuid.v3.UuidRequestIdConfig",
        f"{EXTENSIONS}transport_sockets.raw_buffer.v3.RawBuffer",
        f"{EXTENSIONS}transport_sockets.tls.v3.UpstreamTlsContext",
    )
)  # fmt: skip
_PACKAGES: Final = (
    "xds.type.matcher.v3.",
    "envoy.type.matcher.v3.",
    f"{EXTENSIONS}compression.",
    f"{EXTENSIONS}http.stateful_session.",
    f"{EXTENSIONS}load_balancing_policies.",
    f"{EXTENSIONS}matching.common_inputs.network.",
    f"{EXTENSIONS}matching.common_inputs.ssl.",
    f"{EXTENSIONS}path.",
    f"{EXTENSIONS}rate_limit_descriptors.",
    f"{EXTENSIONS}retry.",
)
"""Packages without anything that reaches out of a request."""
_VALUES: Final = frozenset(
    f"google.protobuf.{name}"
    for name in ("BoolValue", "BytesValue", "DoubleValue", "Duration", "Empty", "FloatValue", "Int32Value", "Int64Value", "StringValue",
                 "UInt32Value", "UInt64Value")
)  # fmt: skip
"""Plain values. Struct is none: Envoy takes one for whatever message it expects, and nobody had looked at that."""
_NO_FILES: Final = "files of the proxy's host are nobody's to name: write what is in it (inline_string)"
TYPES: Final = HTTP_FILTERS | NETWORK_FILTERS | _OTHERS | _VALUES
_NO_SOURCE: Final = "configuration comes from the mesh's controller alone: write it in place"
_REFUSED: Final[Mapping[tuple[str, str], str]] = {
    ("envoy.config.core.v3.DataSource", "filename"): _NO_FILES,
    ("envoy.config.core.v3.DataSource", "environment_variable"): "the environment of the proxy is nobody's to read",
    ("envoy.config.core.v3.DataSource", "watched_directory"): _NO_FILES,
    ("envoy.config.core.v3.Address", "pipe"): "sockets of the proxy's host are nobody's to call",
    ("envoy.config.core.v3.Address", "envoy_internal_address"): "the mesh's own listeners are nobody's to call",
    ("envoy.config.core.v3.SocketAddress", "network_namespace_filepath"): _NO_FILES,
    ("envoy.config.core.v3.GrpcService", "google_grpc"): "is not taken here: name a cluster by envoy_grpc",
    ("envoy.config.core.v3.HealthCheck", "event_log_path"): _NO_FILES,
    ("envoy.config.route.v3.RouteAction", "cluster_header"): "whoever asks would choose where to",
    ("envoy.config.route.v3.WeightedCluster.ClusterWeight", "cluster_header"): "whoever asks would choose where to",
    ("envoy.config.route.v3.RouteAction.RequestMirrorPolicy", "cluster_header"): "whoever asks would choose where to",
    ("envoy.config.route.v3.RouteAction.UpgradeConfig", "connect_config"): "would carry what no policy for requests judges",
    ("envoy.config.cluster.v3.Cluster", "upstream_bind_config"): "addresses of the proxy's host are the mesh's to choose",
    ("envoy.type.tracing.v3.CustomTag", "environment"): "the environment of the proxy is nobody's to read",
    (f"{EXTENSIONS}transport_sockets.tls.v3.CommonTlsContext", "key_log"): _NO_FILES,
    (f"{_HTTP}grpc_json_transcoder.v3.GrpcJsonTranscoder", "proto_descriptor"): "name no file: give it as proto_descriptor_bin",
    (f"{_HTTP}local_ratelimit.v3.LocalRateLimit", "request_headers_to_add_when_not_enforced"): (
        "a filter that may stand ahead of what secures requests adds no headers"
    ),
    (f"{_HTTP}rbac.v3.RBAC", "shadow_rules_stat_prefix"): "is the mesh's to choose",
}
"""Fields that no patch may set, with why."""
_REFUSED_MESSAGES: Final[Mapping[str, str]] = {
    "envoy.config.core.v3.ConfigSource": _NO_SOURCE,
    "envoy.config.core.v3.ExtensionConfigSource": _NO_SOURCE,
    "envoy.config.core.v3.SocketOption": "options of sockets could lead around the mesh",
    "envoy.config.core.v3.WatchedDirectory": _NO_FILES,
    f"{_HTTP}jwt_authn.v3.RemoteJwks": "keys are fetched from allowed hosts alone: write a RequestAuthentication, or the keys (local_jwks)",
    f"{EXTENSIONS}transport_sockets.tls.v3.SdsSecretConfig": "secrets are the mesh's to hand out",
}
SYSTEM_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
"""The one file that may be named, as what to trust: everybody's roots."""
OWN_CLUSTERS: Final = frozenset(
    (
        "xds-grpc",
        "sds-grpc",
        "connect_originate",
        "connect_terminate",
        "main_internal",
        "main_internal_sniffing",
        "encap",
        "direct-plaintext",
    )
)
"""Clusters of the path itself, to which nothing may be sent but by the path."""
_COUNTED: Final = frozenset(
    (f"{_HTTP}ratelimit.v3.RateLimit", f"{_HTTP}ratelimit.v3.RateLimitPerRoute", f"{_NETWORK}ratelimit.v3.RateLimit")
)
_LIMITS_OF_OTHERS: Final = "rate_limit."
_OURS: Final = ("nodemesh.", "extensions.istio.io/")
SECURING: Final = frozenset(
    (
        "envoy.filters.http.jwt_authn",
        HTTP_RBAC,
        *SEATS.values(),
        "envoy.filters.http.ext_authz",
        "nodemesh.callers",
        "nodemesh.rate_limits",
    )
)
"""HTTP filters that secure, by their names: routes don't configure them."""
_OPERATOR: Final = re.compile(r"%(ENVIRONMENT|FILE_CONTENT|SECRET)\b")


class PatchError(ValueError):
    """What a patch has that none may have, or that can't be read."""


def secure(message: Message, path: str = "") -> None:
    """Raises PatchError for what no patch may hold; scripts are confined in place. `path`: where in the patch, for the words."""
    name = message.DESCRIPTOR.full_name
    if name in _REFUSED_MESSAGES:
        raise PatchError(f"{path}: {_REFUSED_MESSAGES[name]}")
    for field, value in message.ListFields():
        _field(name, field, value, f"{path}.{field.name}" if path else field.name)
    if name == LUA:
        _confine_filter(message)
    elif name == _LUA_PER_ROUTE:
        _confine_source(message, "source_code")
    elif name in _COUNTED and message.domain.startswith(DOMAIN):
        raise PatchError(f"{path}: {DOMAIN} is the domain of RateLimits, whose counts are nobody else's to use up")
    elif name == "envoy.config.core.v3.SocketAddress":
        _check_address(message.address, path)


def type_name(message: Message) -> str:
    """What an Any holds."""
    return str(message.type_url.rpartition("/")[2])


def opened(message: Message) -> Message:
    """What an Any holds, as it is. Raises PatchError where it can't be read."""
    try:
        return message_class(type_name(message)).FromString(message.value)
    except (KeyError, DecodeError) as error:
        raise PatchError(f"{type_name(message)[:120]!r} can't be read") from error


def _field(name: str, field: Any, value: Any, path: str) -> None:
    if reason := _REFUSED.get((name, field.name)):
        if not (field.name == "filename" and value == SYSTEM_ROOTS and path.endswith("trusted_ca.filename")):
            raise PatchError(f"{path}: {reason}")
        return
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map:
        for key in value:
            _entry(field, key, value[key], f"{path}[{str(key)[:80]!r}]")
    elif field.name == "stat_prefix" and _LIMITS_OF_OTHERS in value:
        raise PatchError(f"{path}: {_LIMITS_OF_OTHERS} begins what is counted of RateLimits")
    elif field.message_type is None:
        for one in value if _repeated(field) else (value,):
            _scalar(one, path)
    else:
        for one in value if _repeated(field) else (value,):
            _message(one, path)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _entry(field: Any, key: Any, value: Any, path: str) -> None:
    # A plugin may decide about requests, too.
    if field.name == "typed_per_filter_config" and (key in SECURING or key.startswith(_OURS)):
        raise PatchError(f"{path}: what secures requests is not configured by patches")
    if field.message_type.fields_by_name["value"].message_type is not None:
        _message(value, path)
    else:
        _scalar(value, path)


def _message(message: Message, path: str) -> None:
    if message.DESCRIPTOR.full_name != ANY:
        secure(message, path)
        return
    kind = type_name(message)
    if kind not in TYPES and not kind.startswith(_PACKAGES):
        raise PatchError(f"{path}: {kind[:120] or 'an extension without @type'} is not among what patches may hold")
    inner = opened(message)
    secure(inner, path)
    message.CopyFrom(packed(inner))


def _scalar(value: Any, path: str) -> None:
    if isinstance(value, str):
        _text(value, path)
    elif isinstance(value, bytes):
        # A format may be given in bytes, too (inline_bytes).
        _text(value.decode("latin-1"), path)


def _text(text: str, path: str) -> None:
    if found := _OPERATOR.search(text):
        raise PatchError(f"{path}: %{found[1]}% would show what is the proxy's own")
    # Whatever the field: clusters are named in many, and there is no other use for these names.
    if text in OWN_CLUSTERS:
        raise PatchError(f"{path}: {text} is of the mesh's own path")


def _check_address(text: str, path: str) -> None:
    try:
        try:
            ip_address(text)
        except ValueError:
            # Neither the machine's own names, nor numbers that some resolvers take for addresses.
            values.host(text)
        else:
            values.serving_address(text)
    except ValueError as error:
        raise PatchError(f"{path}: {error}") from error
    if text.startswith("*"):
        raise PatchError(f"{path}: {text[:80]} is no one's address")


def _confine_filter(message: Message) -> None:
    if message.inline_code:
        message.inline_code = confined(message.inline_code)
    if message.HasField("default_source_code"):
        _confine_source(message, "default_source_code")
    for key in message.source_codes:
        _confine(message.source_codes[key])


def _confine_source(message: Message, field: str) -> None:
    if message.HasField(field):
        _confine(getattr(message, field))


def _confine(source: Message) -> None:
    if source.WhichOneof("specifier") == "inline_bytes":
        try:
            source.inline_string = source.inline_bytes.decode()
        except UnicodeDecodeError as error:
            raise PatchError("Lua is a text: this is none") from error
    source.inline_string = confined(source.inline_string)
