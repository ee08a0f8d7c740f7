"""Tracing, as Istio's Telemetry and mesh configuration say it: what spans are made of, and who collects them."""

from enum import StrEnum
from typing import Any

from msgspec import Struct, field


class LiteralTag(Struct, frozen=True, forbid_unknown_fields=True):
    value: str = ""


class NamedTag(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Of a header of the request, or of a variable of the proxy's environment."""

    name: str = ""
    default_value: str = ""


class CustomTag(Struct, frozen=True, forbid_unknown_fields=True):
    """One of them. `formatter`: a format of access logs."""

    literal: LiteralTag | None = None
    environment: NamedTag | None = None
    header: NamedTag | None = None
    formatter: LiteralTag | None = None


class HTTPHeader(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What collectors are shown; `env_name`: the controller's environment would say it."""

    name: str
    value: str = ""
    env_name: str = ""


class OTLPOverHTTP(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    path: str = ""
    timeout: str = ""
    headers: tuple[HTTPHeader, ...] = ()


class OTLPOverGRPC(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    timeout: str = ""
    initial_metadata: tuple[HTTPHeader, ...] = ()


class OpenTelemetryTracing(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """By OTLP: over gRPC unless `http` is there. `service` is a host of the mesh, or `namespace/host`.

    `dynatrace_sampler` and `resource_detectors` are read, and honoured by nobody here: such a provider can't be used.
    """

    service: str
    port: int
    max_tag_length: int = 0
    http: OTLPOverHTTP | None = None
    grpc: OTLPOverGRPC | None = None
    dynatrace_sampler: dict[str, Any] | None = None
    resource_detectors: dict[str, Any] | None = None


class TraceContext(StrEnum):
    """By which headers a trace goes on."""

    USE_B3 = "USE_B3"
    USE_B3_WITH_W3C_PROPAGATION = "USE_B3_WITH_W3C_PROPAGATION"


class ZipkinTracing(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Zipkin's JSON, version 2."""

    service: str
    port: int
    max_tag_length: int = 0
    short_ids: bool = field(default=False, name="enable64bitTraceId")
    path: str = ""
    timeout: str = ""
    headers: tuple[HTTPHeader, ...] = ()
    trace_context_option: TraceContext = TraceContext.USE_B3


class ZipkinAddress(Struct, frozen=True):
    """`host:port`."""

    address: str = ""


class ProxyTracing(Struct, frozen=True, rename="camel"):
    """What proxies do where nobody says more. `zipkin` without providers: the form of older documents."""

    sampling: float | None = None
    max_path_tag_length: int = 0
    custom_tags: dict[str, CustomTag] = {}
    enable_istio_tags: bool = True
    zipkin: ZipkinAddress | None = None


class ProxyConfig(Struct, frozen=True, rename="camel"):
    tracing: ProxyTracing = ProxyTracing()
