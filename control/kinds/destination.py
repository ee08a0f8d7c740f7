"""Istio's DestinationRule: how the endpoints of a host are called once it is decided that they are. Unknown fields are errors."""

from enum import StrEnum
from typing import ClassVar

from msgspec import field

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.routing import PortSelector, Strict


class TLSMode(StrEnum):
    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class SimpleBalancer(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    LEAST_REQUEST = "LEAST_REQUEST"
    RANDOM = "RANDOM"
    ROUND_ROBIN = "ROUND_ROBIN"
    PASSTHROUGH = "PASSTHROUGH"


class UpgradePolicy(StrEnum):
    DEFAULT = "DEFAULT"
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    UPGRADE = "UPGRADE"


class HTTPCookie(Strict, frozen=True):
    """Without `ttl` a cookie is only read; one of `0s` is made for the client's session."""

    name: str
    path: str = ""
    ttl: str = ""


class RingHash(Strict, frozen=True):
    minimum_ring_size: int = 0


class Maglev(Strict, frozen=True):
    table_size: int = 0


class ConsistentHash(Strict, frozen=True):
    http_header_name: str = ""
    http_cookie: HTTPCookie | None = None
    use_source_ip: bool = False
    http_query_parameter_name: str = ""
    ring_hash: RingHash | None = None
    maglev: Maglev | None = None


class Distribute(Strict, frozen=True):
    source: str = field(default="", name="from")
    to: dict[str, int] = field(default_factory=dict)


class Failover(Strict, frozen=True):
    source: str = field(default="", name="from")
    to: str = ""


class LocalityBalancing(Strict, frozen=True):
    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: bool | None = None


class Warmup(Strict, frozen=True):
    duration: str
    minimum_percent: float | None = None
    aggression: float | None = None


class LoadBalancer(Strict, frozen=True):
    simple: SimpleBalancer = SimpleBalancer.UNSPECIFIED
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalityBalancing | None = None
    warmup: Warmup | None = None


class TCPKeepalive(Strict, frozen=True):
    probes: int = 0
    time: str = ""
    interval: str = ""


class TCPPool(Strict, frozen=True):
    max_connections: int = 0
    connect_timeout: str = ""
    tcp_keepalive: TCPKeepalive | None = None
    max_connection_duration: str = ""
    idle_timeout: str = ""


class HTTPPool(Strict, frozen=True):
    http1_max_pending_requests: int = 0
    http2_max_requests: int = 0
    max_requests_per_connection: int = 0
    max_retries: int = 0
    idle_timeout: str = ""
    h2_upgrade_policy: UpgradePolicy = UpgradePolicy.DEFAULT
    use_client_protocol: bool = False
    max_concurrent_streams: int = 0


class ConnectionPool(Strict, frozen=True):
    tcp: TCPPool | None = None
    http: HTTPPool | None = None


class OutlierDetection(Strict, frozen=True):
    """None of the counts: five consecutive 5xx errors, as Envoy has it; 0 switches one off."""

    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: int | None = None
    consecutive_gateway_errors: int | None = None
    consecutive_5xx_errors: int | None = field(default=None, name="consecutive5xxErrors")
    interval: str = ""
    base_ejection_time: str = ""
    max_ejection_percent: int = 0
    min_health_percent: int = 0


class ClientTLS(Strict, frozen=True):
    mode: TLSMode = TLSMode.DISABLE
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool = False


class ProxyProtocol(Strict, frozen=True):
    version: str = "V1"


class RetryBudget(Strict, frozen=True):
    percent: float | None = None
    min_retry_concurrency: int = 3


class Tunnel(Strict, frozen=True):
    target_host: str
    target_port: int
    protocol: str = "CONNECT"


class PortPolicy(Strict, frozen=True):
    port: PortSelector
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLS | None = None


class TrafficPolicy(Strict, frozen=True):
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLS | None = None
    port_level_settings: tuple[PortPolicy, ...] = ()
    tunnel: Tunnel | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None


class Subset(Strict, frozen=True):
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


class WorkloadSelector(Strict, frozen=True):
    match_labels: dict[str, str] = field(default_factory=dict)


class DestinationRuleSpec(Strict, frozen=True):
    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: WorkloadSelector | None = None


class DestinationRule(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.DESTINATION_RULE
    spec: DestinationRuleSpec

    def subset(self, name: str) -> Subset | None:
        """A subset by its name."""
        return next((one for one in self.spec.subsets if one.name == name), None)
