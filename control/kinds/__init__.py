"""The kinds of Kubernetes, Istio and Gateway API that the mesh reads, as immutable typed values holding only the fields used.

Fields of Kubernetes objects that are not listed are dropped, as the API server prunes them; those of policy and of
routing forbid unknown fields, because a rule that is read without one of its conditions would match more than it says.
"""

from control.kinds.core import EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount
from control.kinds.destination import DestinationRule
from control.kinds.envoy_filter import EnvoyFilter
from control.kinds.gateway import Gateway, GatewayClass
from control.kinds.gateway_routes import GRPCRoute, HTTPRoute, ReferenceGrant, TCPRoute, TLSRoute
from control.kinds.groups import WorkloadGroup
from control.kinds.istio_gateway import IstioGateway
from control.kinds.mesh_config import MeshConfig
from control.kinds.metadata import Kind, Meta, ObjectKey
from control.kinds.networking import ServiceEntry, WorkloadEntry
from control.kinds.rate_limits import RateLimit
from control.kinds.routing import VirtualService
from control.kinds.security import AuthorizationPolicy, PeerAuthentication
from control.kinds.telemetry import Telemetry
from control.kinds.tokens import RequestAuthentication
from control.kinds.wasm_plugin import WasmPlugin

MeshObject = (
    Namespace
    | Node
    | ServiceAccount
    | Pod
    | Service
    | EndpointSlice
    | PeerAuthentication
    | AuthorizationPolicy
    | RequestAuthentication
    | Telemetry
    | RateLimit
    | MeshConfig
    | ServiceEntry
    | WorkloadEntry
    | WorkloadGroup
    | VirtualService
    | DestinationRule
    | EnvoyFilter
    | WasmPlugin
    | Gateway
    | GatewayClass
    | HTTPRoute
    | GRPCRoute
    | TLSRoute
    | TCPRoute
    | ReferenceGrant
    | IstioGateway
)

__all__ = [
    "AuthorizationPolicy",
    "DestinationRule",
    "EndpointSlice",
    "EnvoyFilter",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "HTTPRoute",
    "IstioGateway",
    "Kind",
    "MeshConfig",
    "MeshObject",
    "Meta",
    "Namespace",
    "Node",
    "ObjectKey",
    "PeerAuthentication",
    "Pod",
    "RateLimit",
    "ReferenceGrant",
    "RequestAuthentication",
    "Service",
    "ServiceAccount",
    "ServiceEntry",
    "TCPRoute",
    "TLSRoute",
    "Telemetry",
    "VirtualService",
    "WasmPlugin",
    "WorkloadEntry",
    "WorkloadGroup",
]
