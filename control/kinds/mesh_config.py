"""Istio's mesh configuration, the parts of it that Envoys are told: YAML in the ConfigMap `istio` of the root namespace, key `mesh`."""

from enum import StrEnum
from typing import ClassVar, Final

import msgspec
from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.tracing import OpenTelemetryTracing, ProxyConfig, ZipkinTracing

NAME: Final = "istio"
KEY: Final = "mesh"
OWN_KEY: Final = "nodemesh"
"""What Istio has no words for, which is not to be met by its own readers of `mesh`."""


class BodyCheck(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How much of a request's body is shown."""

    max_request_bytes: int
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class GRPCAuthorizer(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Who decides by Envoy's own protocol. `service` is a host of the mesh, or `namespace/host`."""

    service: str
    port: int
    timeout: str = ""
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    include_request_body_in_check: BodyCheck | None = None


class HTTPAuthorizer(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Who decides by an HTTP request that looks like the one to decide on."""

    service: str
    port: int
    timeout: str = ""
    path_prefix: str = ""
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    include_headers_in_check: tuple[str, ...] = ()
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: dict[str, str] = {}
    include_request_body_in_check: BodyCheck | None = None
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()


class LogFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """A line, or an object's texts by their names."""

    text: str = ""
    labels: dict[str, str] = {}


class FileAccessLog(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`path` empty: standard output."""

    path: str = ""
    log_format: LogFormat | None = None
    omit_empty_values: bool = False


class LogCollector(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Who is told by Envoy's access log service: `service` is a host of the mesh, or `namespace/host`."""

    service: str
    port: int
    log_name: str = ""
    filter_state_objects_to_log: tuple[str, ...] = ()
    additional_request_headers_to_log: tuple[str, ...] = ()
    additional_response_headers_to_log: tuple[str, ...] = ()
    additional_response_trailers_to_log: tuple[str, ...] = ()


class OpenTelemetryLog(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Likewise, by OTLP: `text` of the format is the body, `labels` are attributes."""

    service: str
    port: int
    log_name: str = ""
    log_format: LogFormat | None = None


class DefaultProviders(Struct, frozen=True, rename="camel"):
    """By whom what is told without anybody saying so; of the kinds that Istio has, those that are used here."""

    access_logging: tuple[str, ...] = ()
    tracing: tuple[str, ...] = ()


class ExtensionProvider(Struct, frozen=True, rename="camel"):
    """Something beside the mesh that policies name. Of the kinds that Istio has, those that are used here."""

    name: str
    envoy_ext_authz_grpc: GRPCAuthorizer | None = None
    envoy_ext_authz_http: HTTPAuthorizer | None = None
    envoy_file_access_log: FileAccessLog | None = None
    envoy_http_als: LogCollector | None = None
    envoy_tcp_als: LogCollector | None = None
    envoy_otel_als: OpenTelemetryLog | None = None
    opentelemetry: OpenTelemetryTracing | None = None
    zipkin: ZipkinTracing | None = None


class LogEncoding(StrEnum):
    TEXT = "TEXT"
    JSON = "JSON"


class MeshOptions(Struct, frozen=True, rename="camel"):
    """What is in the YAML."""

    extension_providers: tuple[ExtensionProvider, ...] = ()
    default_providers: DefaultProviders = DefaultProviders()
    access_log_file: str = ""
    """Where lines go for each request and connection; empty: there are none."""
    access_log_format: str = ""
    """Of JSON an object of texts; empty: Istio's."""
    access_log_encoding: LogEncoding = LogEncoding.TEXT
    enable_tracing: bool = True
    """Whether `default_config` alone can ask for it."""
    default_config: ProxyConfig = ProxyConfig()

    def provider(self, name: str) -> ExtensionProvider | None:
        """By name."""
        return next((one for one in self.extension_providers if one.name == name), None)


class RateLimitService(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Who counts requests for all Envoys. `service` is a host of the mesh, or `namespace/host`; `timeout`: how long is waited for him."""

    service: str
    port: int = 8081
    timeout: str = ""


class OwnOptions(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What is in the YAML beside Istio's."""

    rate_limit_service: RateLimitService | None = None


class MeshConfig(Object, frozen=True):
    """The ConfigMap, as it is written."""

    kind_of: ClassVar[Kind] = Kind.MESH_CONFIG
    data: dict[str, str] = msgspec.field(default_factory=dict)

    def options(self) -> MeshOptions:
        """Raises ValueError for YAML that is none, or not what it should be."""
        try:
            found = msgspec.yaml.decode(self.data.get(KEY) or "{}", type=MeshOptions | None)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{KEY}: {error}") from error
        return found or MeshOptions()

    def own_options(self) -> OwnOptions:
        """Raises ValueError likewise."""
        try:
            found = msgspec.yaml.decode(self.data.get(OWN_KEY) or "{}", type=OwnOptions | None)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{OWN_KEY}: {error}") from error
        return found or OwnOptions()
