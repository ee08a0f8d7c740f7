"""Istio's EnvoyFilter: patches of what Envoys are served, where Istio's other kinds have no word for it."""

from enum import StrEnum
from typing import Any, ClassVar

from msgspec import field

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.routing import Strict
from control.kinds.security import PolicyTarget


class ApplyTo(StrEnum):
    """What a patch changes, or adds to."""

    LISTENER = "LISTENER"
    LISTENER_FILTER = "LISTENER_FILTER"
    FILTER_CHAIN = "FILTER_CHAIN"
    NETWORK_FILTER = "NETWORK_FILTER"
    HTTP_FILTER = "HTTP_FILTER"
    ROUTE_CONFIGURATION = "ROUTE_CONFIGURATION"
    VIRTUAL_HOST = "VIRTUAL_HOST"
    HTTP_ROUTE = "HTTP_ROUTE"
    CLUSTER = "CLUSTER"
    EXTENSION_CONFIG = "EXTENSION_CONFIG"
    BOOTSTRAP = "BOOTSTRAP"


class PatchContext(StrEnum):
    """At which proxies. Of sidecars there are none here."""

    ANY = "ANY"
    SIDECAR_INBOUND = "SIDECAR_INBOUND"
    SIDECAR_OUTBOUND = "SIDECAR_OUTBOUND"
    GATEWAY = "GATEWAY"
    WAYPOINT = "WAYPOINT"


class Operation(StrEnum):
    MERGE = "MERGE"
    ADD = "ADD"
    REMOVE = "REMOVE"
    INSERT_BEFORE = "INSERT_BEFORE"
    INSERT_AFTER = "INSERT_AFTER"
    INSERT_FIRST = "INSERT_FIRST"
    REPLACE = "REPLACE"


class FilterClass(StrEnum):
    """Where ADD puts a filter: behind those of Istio that authenticate, or authorize, or ahead of those that count."""

    UNSPECIFIED = "UNSPECIFIED"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class RouteAction(StrEnum):
    ANY = "ANY"
    ROUTE = "ROUTE"
    REDIRECT = "REDIRECT"
    DIRECT_RESPONSE = "DIRECT_RESPONSE"


class ProxyMatch(Strict, frozen=True):
    proxy_version: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


class NamedMatch(Strict, frozen=True):
    name: str = ""


class FilterMatch(Strict, frozen=True):
    name: str = ""
    sub_filter: NamedMatch = NamedMatch()


class FilterChainMatch(Strict, frozen=True):
    name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    application_protocols: str = ""
    destination_port: int = 0
    filter: FilterMatch = FilterMatch()


class ListenerMatch(Strict, frozen=True):
    port_number: int = 0
    port_name: str = ""
    name: str = ""
    listener_filter: str = ""
    filter_chain: FilterChainMatch = FilterChainMatch()


class RouteMatch(Strict, frozen=True):
    name: str = ""
    action: RouteAction = RouteAction.ANY


class VirtualHostMatch(Strict, frozen=True):
    name: str = ""
    domain_name: str = ""
    route: RouteMatch | None = None


class RouteConfigurationMatch(Strict, frozen=True):
    port_number: int = 0
    port_name: str = ""
    gateway: str = ""
    name: str = ""
    vhost: VirtualHostMatch = VirtualHostMatch()


class ClusterMatch(Strict, frozen=True):
    port_number: int = 0
    service: str = ""
    subset: str = ""
    name: str = ""


class WaypointMatch(Strict, frozen=True):
    """What stands in the place of the others with the context WAYPOINT."""

    port_number: int = 0
    filter: FilterMatch = FilterMatch()
    route: NamedMatch | None = None


class PatchMatch(Strict, frozen=True):
    context: PatchContext = PatchContext.ANY
    proxy: ProxyMatch = ProxyMatch()
    listener: ListenerMatch | None = None
    route_configuration: RouteConfigurationMatch | None = None
    cluster: ClusterMatch | None = None
    waypoint: WaypointMatch | None = None


class Patch(Strict, frozen=True):
    """`value`: a message of Envoy's in protobuf's JSON."""

    operation: Operation
    value: dict[str, Any] = field(default_factory=dict)
    filter_class: FilterClass = FilterClass.UNSPECIFIED


class ConfigPatch(Strict, frozen=True):
    apply_to: ApplyTo
    patch: Patch
    match: PatchMatch = PatchMatch()


class WorkloadSelector(Strict, frozen=True):
    labels: dict[str, str] = field(default_factory=dict)


class EnvoyFilterSpec(Strict, frozen=True):
    workload_selector: WorkloadSelector | None = None
    target_refs: tuple[PolicyTarget, ...] = ()
    config_patches: tuple[ConfigPatch, ...] = ()
    priority: int = 0


class EnvoyFilter(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.ENVOY_FILTER
    spec: EnvoyFilterSpec = EnvoyFilterSpec()

    @property
    def labels(self) -> dict[str, str] | None:
        """Of the proxies that it is for; None where it says none."""
        return self.spec.workload_selector.labels if self.spec.workload_selector is not None else None

    @property
    def targets(self) -> tuple[PolicyTarget, ...]:
        """What it is for, where that is not proxies by their labels."""
        return self.spec.target_refs
