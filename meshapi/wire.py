"""Names, ports, marks and type URLs that the mesh shares with Istio's ambient mode."""

from typing import Final

OUTBOUND_PORT: Final = 15001
INBOUND_PLAINTEXT_PORT: Final = 15006
PROBE_PORT: Final = 15007
"""nodemesh's own: stands for the kubelet's connections, in the pod's rules."""
HBONE_PORT: Final = 15008
PROXY_PORTS: Final = frozenset({OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, PROBE_PORT, HBONE_PORT})
METRICS_PORT: Final = 15020
PROXY_METRICS_PORT: Final = 15090
"""Of an Envoy, as Istio has it."""
READINESS_PORT: Final = 15021
XDS_TOKEN_PORT: Final = 15012
"""Server-authenticated TLS; the caller proves itself by a bearer token."""
XDS_MTLS_PORT: Final = 15011
"""Mutual TLS; the caller proves itself by its agent certificate. A port of its own, since grpcio asks for a certificate always or never."""

PROXY_MARK: Final = 0x539
CONNECTION_MARK: Final = 0x111
MARK_MASK: Final = 0xFFF
ROUTE_TABLE: Final = 100

ADDRESS_TYPE: Final = "type.googleapis.com/istio.workload.Address"
WORKLOAD_TYPE: Final = "type.googleapis.com/istio.workload.Workload"
"""For those beside an Envoy, by address: what a workload is called, and who it is."""
AUTHORIZATION_TYPE: Final = "type.googleapis.com/istio.security.Authorization"
TRUST_TYPE: Final = "type.googleapis.com/nodemesh.trust.TrustBundle"
"""nodemesh's own, for roots and revocations; Istio's controller answers a subscription to it with nothing."""
NAMES_TYPE: Final = "type.googleapis.com/nodemesh.names.Names"
"""nodemesh's own, for DNS: without it an agent passes every question on."""
DNS_PORT: Final = 15053

DEFAULT_TRUST_DOMAIN: Final = "cluster.local"
DEFAULT_SERVICE_ACCOUNT: Final = "default"
DEFAULT_CLUSTER: Final = "Kubernetes"
DEFAULT_ROOT_NAMESPACE: Final = "istio-system"

LABEL_DATAPLANE_MODE: Final = "istio.io/dataplane-mode"
LABEL_USE_WAYPOINT: Final = "istio.io/use-waypoint"
LABEL_USE_WAYPOINT_NAMESPACE: Final = "istio.io/use-waypoint-namespace"
LABEL_INGRESS_USE_WAYPOINT: Final = "istio.io/ingress-use-waypoint"
LABEL_WAYPOINT_FOR: Final = "istio.io/waypoint-for"
LABEL_GATEWAY_NAME: Final = "gateway.networking.k8s.io/gateway-name"
"""On the pods and the service of a waypoint or gateway: the name of the Gateway that they are."""
WAYPOINT_GUARD: Final = "only_through_waypoint_"
"""Begins the names of the policies that let nobody in but a waypoint; no object of Kubernetes has a name with `_`."""
WAYPOINT_CLASSES: Final = frozenset({"istio-waypoint", "nodemesh-waypoint"})
GATEWAY_CLASSES: Final = frozenset({"istio", "nodemesh"})
ANNOTATION_REDIRECTION: Final = "ambient.istio.io/redirection"
ANNOTATIONS_APART: Final = ("sidecar.istio.io/status", "kubernetes.io/config.mirror")
"""On pods that are never captured: those with a proxy of their own, and static pods, which have no service account."""
