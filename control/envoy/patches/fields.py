"""Which fields of what is there a MERGE may change, and what may be added: what secures traffic stays as it is."""

from collections.abc import Mapping
from typing import Final

from control.envoy.messages import Message
from control.envoy.patches.allowed import HTTP_FILTERS, HTTP_OPTIONS, MANAGER, NETWORK_FILTERS, OWN_CLUSTERS, PatchError, opened, type_name
from control.kinds.envoy_filter import ApplyTo

_TCP_PROXY: Final = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_MERGED: Final[Mapping[str, frozenset[str]]] = {
    "envoy.config.listener.v3.Listener": frozenset(
        ("name", "per_connection_buffer_limit_bytes", "tcp_backlog_size", "tcp_fast_open_queue_length", "connection_balance_config",
         "enable_reuse_port", "listener_filters", "listener_filters_timeout", "max_connections_to_accept_per_socket_event")
    ),
    "envoy.config.listener.v3.FilterChain": frozenset(("name", "transport_socket_connect_timeout")),
    "envoy.config.listener.v3.Filter": frozenset(("name", "typed_config")),
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter": frozenset(("name", "typed_config")),
    MANAGER: frozenset(
        ("add_user_agent", "always_set_request_id_in_response", "common_http_protocol_options", "delayed_close_timeout", "drain_timeout",
         "generate_request_id", "http2_protocol_options", "http_protocol_options", "local_reply_config", "max_request_headers_kb",
         "preserve_external_request_id", "proxy_100_continue", "request_headers_timeout", "request_id_extension", "request_timeout",
         "scheme_header_transformation", "server_header_transformation", "server_name", "stream_error_on_invalid_http_message",
         "stream_idle_timeout", "upgrade_configs", "via", "xff_num_trusted_hops")
    ),
    _TCP_PROXY: frozenset(
        ("idle_timeout", "downstream_idle_timeout", "upstream_idle_timeout", "max_connect_attempts", "max_downstream_connection_duration",
         "backoff_options", "flush_access_log_on_connected", "hash_policy")
    ),
    "envoy.config.route.v3.RouteConfiguration": frozenset(
        ("name", "request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove",
         "most_specific_header_mutations_wins", "max_direct_response_body_size_bytes", "request_mirror_policies",
         "typed_per_filter_config", "internal_only_headers")
    ),
    "envoy.config.cluster.v3.Cluster": frozenset(
        ("name", "alt_stat_name", "circuit_breakers", "cleanup_interval", "close_connections_on_host_health_failure", "common_lb_config",
         "connect_timeout", "connection_pool_per_downstream_connection", "dns_lookup_family", "dns_refresh_rate",
         "dns_failure_refresh_rate", "health_checks", "http2_protocol_options", "http_protocol_options",
         "ignore_health_on_host_removal", "lb_policy", "least_request_lb_config", "load_balancing_policy", "maglev_lb_config",
         "max_requests_per_connection", "outlier_detection", "per_connection_buffer_limit_bytes", "preconnect_policy",
         "respect_dns_ttl", "ring_hash_lb_config", "round_robin_lb_config", "track_cluster_stats", "typed_extension_protocol_options",
         "upstream_connection_options", "use_tcp_for_dns_lookups", "wait_for_warm_on_init")
    ),
}  # fmt: skip
"""By message; of others all fields may be changed."""
_ADDED_CLUSTER: Final = _MERGED["envoy.config.cluster.v3.Cluster"] | {"type", "load_assignment", "transport_socket"}
_OPTIONS: Final = frozenset(("common_http_protocol_options", "explicit_http_config", "use_downstream_protocol_config", "auto_config"))
_FOUND_BY: Final = frozenset(("STATIC", "STRICT_DNS", "LOGICAL_DNS"))
_PROXY_PROTOCOL: Final = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"


def check_fields(apply_to: ApplyTo, message: Message, *, at_gateways: bool) -> None:
    """Raises PatchError for a MERGE of what is not to be changed."""
    _only(message)
    if apply_to in {ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER}:
        if message.HasField("typed_config"):
            _check_filter(opened(message.typed_config), at_gateways=at_gateways)
    elif apply_to is ApplyTo.CLUSTER:
        _check_options(message)
    elif apply_to is ApplyTo.LISTENER:
        for one in message.listener_filters:
            if type_name(one.typed_config) != _PROXY_PROTOCOL:
                raise PatchError("listener_filters: proxy_protocol alone is taken")


def check_inserted(apply_to: ApplyTo, message: Message) -> None:
    """Raises PatchError for what can't be added."""
    match apply_to:
        case ApplyTo.HTTP_FILTER:
            _check_extension(message, HTTP_FILTERS, "HTTP filter")
        case ApplyTo.NETWORK_FILTER:
            _check_extension(message, NETWORK_FILTERS, "network filter")
        case ApplyTo.VIRTUAL_HOST if not message.domains:
            raise PatchError("a virtual host has domains")
        case ApplyTo.CLUSTER:
            _check_cluster(message)


def _only(message: Message) -> None:
    allowed = _MERGED.get(message.DESCRIPTOR.full_name)
    for field, _ in message.ListFields():
        if allowed is not None and field.name not in allowed:
            raise PatchError(f"{field.name} of a {message.DESCRIPTOR.name} is not changed by patches")


def _check_extension(message: Message, known: frozenset[str], what: str) -> None:
    if not message.name:
        raise PatchError(f"a {what} has a name")
    if not message.HasField("typed_config"):
        raise PatchError(f"a {what} has a typed_config")
    kind = type_name(message.typed_config)
    if kind not in known or kind.endswith(".Router"):
        raise PatchError(f"{kind} is no {what} that can be added")


def _check_filter(config: Message, *, at_gateways: bool) -> None:
    _only(config)
    if config.DESCRIPTOR.full_name != MANAGER:
        return
    if config.xff_num_trusted_hops and not at_gateways:
        raise PatchError("xff_num_trusted_hops: who is in front is known of gateways alone (context GATEWAY)")
    if config.http_protocol_options.allow_chunked_length:
        raise PatchError("http_protocol_options.allow_chunked_length: two lengths of one request are read in two ways")
    for one in config.upgrade_configs:
        if one.filters or one.upgrade_type.upper().startswith("CONNECT"):
            raise PatchError("upgrade_configs: what is upgraded passes the same filters, and is no CONNECT")


def _check_options(message: Message) -> None:
    for name, value in message.typed_extension_protocol_options.items():
        if name != HTTP_OPTIONS:
            raise PatchError(f"typed_extension_protocol_options: {name[:100]!r} is not among what clusters have")
        for field, _ in opened(value).ListFields():
            if field.name not in _OPTIONS:
                raise PatchError(f"typed_extension_protocol_options: {field.name} is not changed by patches")


def _check_cluster(message: Message) -> None:
    if not message.name or message.name in OWN_CLUSTERS or "|" in message.name:
        raise PatchError(f"{message.name[:80]!r} is no name for a cluster of one's own: none of the mesh's, and no |")
    for field, _ in message.ListFields():
        if field.name not in _ADDED_CLUSTER:
            raise PatchError(f"{field.name} is nothing that a cluster of one's own has")
    kind = message.DiscoveryType.Name(message.type)
    if kind not in _FOUND_BY or message.WhichOneof("cluster_discovery_type") not in {None, "type"}:
        raise PatchError(f"a cluster of one's own is {', '.join(sorted(_FOUND_BY))}")
    if message.load_assignment.cluster_name not in {"", message.name}:
        raise PatchError("load_assignment.cluster_name is the cluster's name")
    if not message.load_assignment.endpoints:
        raise PatchError("a cluster of one's own says in load_assignment where it is")
