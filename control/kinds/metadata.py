"""What every object has: kind, name, namespace, labels and age."""

from enum import StrEnum
from typing import Final

from msgspec import Struct


class Kind(StrEnum):
    NAMESPACE = "Namespace"
    NODE = "Node"
    SERVICE_ACCOUNT = "ServiceAccount"
    POD = "Pod"
    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    PEER_AUTHENTICATION = "PeerAuthentication"
    AUTHORIZATION_POLICY = "AuthorizationPolicy"
    MESH_CONFIG = "ConfigMap"
    REQUEST_AUTHENTICATION = "RequestAuthentication"
    TELEMETRY = "Telemetry"
    RATE_LIMIT = "RateLimit"
    SERVICE_ENTRY = "ServiceEntry"
    WORKLOAD_ENTRY = "WorkloadEntry"
    WORKLOAD_GROUP = "WorkloadGroup"
    VIRTUAL_SERVICE = "VirtualService"
    DESTINATION_RULE = "DestinationRule"
    ENVOY_FILTER = "EnvoyFilter"
    WASM_PLUGIN = "WasmPlugin"
    GATEWAY = "Gateway"
    GATEWAY_CLASS = "GatewayClass"
    HTTP_ROUTE = "HTTPRoute"
    GRPC_ROUTE = "GRPCRoute"
    TLS_ROUTE = "TLSRoute"
    TCP_ROUTE = "TCPRoute"
    REFERENCE_GRANT = "ReferenceGrant"
    ISTIO_GATEWAY = "Gateway.networking.istio.io"
    """Where two groups have a kind of the same name, the second one's stands here with its group, as kubectl takes it."""

    @property
    def namespaced(self) -> bool:
        return self not in {Kind.NAMESPACE, Kind.NODE, Kind.GATEWAY_CLASS}

    @property
    def api_name(self) -> str:
        """What manifests call it."""
        return self.partition(".")[0]


BRINGING: Final = frozenset({Kind.ENVOY_FILTER, Kind.WASM_PLUGIN})
"""Kinds whose objects bring Envoy's own configuration with them: Envoy judges it."""


class ObjectKey(Struct, frozen=True, order=True):
    """Names one object; `namespace` is empty for kinds without one."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class OwnerReference(Struct, frozen=True):
    kind: str = ""
    name: str = ""
    controller: bool = False


class Meta(Struct, frozen=True, rename="camel"):
    """Object metadata; timestamps are RFC 3339 in UTC, as the API server writes them. Files have no `uid`."""

    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str = ""
    generation: int = 0
    """How often what it asks for was written; 1 = never changed. Files have none."""
    deletion_timestamp: str = ""
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def age_rank(self) -> tuple[bool, str, str, str]:
        """Orders objects oldest first, then by name; an object that does not say its age can't outrank one that does."""
        return (not self.creation_timestamp, self.creation_timestamp, self.namespace, self.name)
