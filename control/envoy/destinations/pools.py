"""Limits of connections and requests, their protocol, and which endpoints are set aside for failing."""

from typing import Any, Final

from control.envoy.messages import Message, message_class, new, packed
from control.envoy.parts import HTTP_OPTIONS, seconds
from control.kinds.destination import ConnectionPool, HTTPPool, OutlierDetection, RetryBudget, TCPPool, UpgradePolicy
from control.validation.durations import seconds as duration

UNLIMITED: Final = (1 << 32) - 1
"""Envoy's own limits (1,024) would be news to somebody who set none."""


def limit(cluster: Message, pool: ConnectionPool, budget: RetryBudget | None) -> None:
    """Sets the limits of a cluster, all of them."""
    tcp, http = pool.tcp or TCPPool(), pool.http or HTTPPool()
    fields: dict[str, Any] = {
        "max_connections": {"value": tcp.max_connections or UNLIMITED},
        "max_pending_requests": {"value": http.http1_max_pending_requests or UNLIMITED},
        "max_requests": {"value": http.http2_max_requests or UNLIMITED},
        "max_retries": {"value": http.max_retries or UNLIMITED},
        "track_remaining": True,
    }
    if budget is not None:
        share = 20.0 if budget.percent is None else budget.percent
        fields["retry_budget"] = {"budget_percent": {"value": share}, "min_retry_concurrency": {"value": budget.min_retry_concurrency}}
    cluster.circuit_breakers.CopyFrom(new("envoy.config.cluster.v3.CircuitBreakers", thresholds=[fields]))
    if tcp.connect_timeout:
        cluster.connect_timeout.CopyFrom(new("google.protobuf.Duration", **seconds(duration(tcp.connect_timeout))))
    if (alive := tcp.tcp_keepalive) is not None:
        keepalive = cluster.upstream_connection_options.tcp_keepalive
        keepalive.SetInParent()
        if alive.probes:
            keepalive.keepalive_probes.value = alive.probes
        if alive.time:
            keepalive.keepalive_time.value = int(duration(alive.time))
        if alive.interval:
            keepalive.keepalive_interval.value = int(duration(alive.interval))


def speak(cluster: Message, pool: ConnectionPool) -> None:
    """Sets what the HTTP of a cluster depends on, where it has any."""
    if HTTP_OPTIONS not in cluster.typed_extension_protocol_options:
        return
    tcp, http = pool.tcp or TCPPool(), pool.http or HTTPPool()
    options = message_class(HTTP_OPTIONS).FromString(cluster.typed_extension_protocol_options[HTTP_OPTIONS].value)
    common = options.common_http_protocol_options
    if http.idle_timeout:
        common.idle_timeout.CopyFrom(new("google.protobuf.Duration", **seconds(duration(http.idle_timeout))))
    if http.max_requests_per_connection:
        common.max_requests_per_connection.value = http.max_requests_per_connection
    if tcp.max_connection_duration:
        common.max_connection_duration.CopyFrom(new("google.protobuf.Duration", **seconds(duration(tcp.max_connection_duration))))
    _choose_protocol(options, http)
    if http.max_concurrent_streams:
        for http2 in _http2_options(options):
            http2.max_concurrent_streams.value = http.max_concurrent_streams
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))


def _choose_protocol(options: Message, http: HTTPPool) -> None:
    """A port that says HTTP/2 stays that."""
    if options.explicit_http_config.HasField("http2_protocol_options") and not http.use_client_protocol:
        return
    if http.use_client_protocol:
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    elif http.h2_upgrade_policy is UpgradePolicy.UPGRADE:
        options.explicit_http_config.http2_protocol_options.SetInParent()
    elif http.h2_upgrade_policy is UpgradePolicy.DO_NOT_UPGRADE:
        options.explicit_http_config.http_protocol_options.SetInParent()


def _http2_options(options: Message) -> list[Message]:
    choices = (options.explicit_http_config, options.use_downstream_protocol_config)
    return [one.http2_protocol_options for one in choices if one.HasField("http2_protocol_options")]


def set_aside(cluster: Message, outlier: OutlierDetection) -> None:
    """Sets when an endpoint is not called for a while."""
    fields: dict[str, Any] = {
        "enforcing_success_rate": {"value": 0},
        "split_external_local_origin_errors": outlier.split_external_local_origin_errors,
        # A share of few endpoints would be less than one.
        "always_eject_one_host": {"value": True},
    }
    counts = {
        "5xx": outlier.consecutive_5xx_errors,
        "gateway_failure": outlier.consecutive_gateway_errors,
        "local_origin_failure": outlier.consecutive_local_origin_failures,
    }
    for name, count in counts.items():
        if count is not None:
            fields[f"consecutive_{name}"] = {"value": count}
            fields[f"enforcing_consecutive_{name}"] = {"value": 100 if count else 0}
    for name, text in (("interval", outlier.interval), ("base_ejection_time", outlier.base_ejection_time)):
        if text:
            fields[name] = seconds(duration(text))
    if outlier.max_ejection_percent:
        fields["max_ejection_percent"] = {"value": outlier.max_ejection_percent}
    cluster.outlier_detection.CopyFrom(new("envoy.config.cluster.v3.OutlierDetection", **fields))
    cluster.common_lb_config.healthy_panic_threshold.value = outlier.min_health_percent
