"""Which kinds are read, and where the API server has them."""

from typing import Final

from msgspec import Struct

from control.kinds import Kind
from control.kinds.mesh_config import NAME


class ResourceType(Struct, frozen=True):
    """A kind of the API. `version` is the one to read it in; those who are not Kubernetes' own may be served in other versions, too.

    `namespace` and `name`: only this object is read.
    """

    kind: Kind
    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """Where all objects of all namespaces are, or of the one namespace."""
        place = f"namespaces/{self.namespace}/{self.plural}" if self.namespace else self.plural
        return f"{f'/apis/{self.group}' if self.group else '/api'}/{self.version}/{place}"

    @property
    def query(self) -> dict[str, str]:
        """What chooses among them."""
        return {"fieldSelector": f"metadata.name={self.name}"} if self.name else {}


BUILT_IN: Final = (
    ResourceType(Kind.NAMESPACE, "", "v1", "namespaces"),
    ResourceType(Kind.NODE, "", "v1", "nodes"),
    ResourceType(Kind.SERVICE_ACCOUNT, "", "v1", "serviceaccounts"),
    ResourceType(Kind.POD, "", "v1", "pods"),
    ResourceType(Kind.SERVICE, "", "v1", "services"),
    ResourceType(Kind.ENDPOINT_SLICE, "discovery.k8s.io", "v1", "endpointslices"),
)


def mesh_config(root_namespace: str) -> ResourceType:
    """The one ConfigMap that configures the mesh."""
    return ResourceType(Kind.MESH_CONFIG, "", "v1", "configmaps", root_namespace, NAME)


CUSTOM: Final = {
    "peerauthentications.security.istio.io": Kind.PEER_AUTHENTICATION,
    "authorizationpolicies.security.istio.io": Kind.AUTHORIZATION_POLICY,
    "requestauthentications.security.istio.io": Kind.REQUEST_AUTHENTICATION,
    "telemetries.telemetry.istio.io": Kind.TELEMETRY,
    "ratelimits.nodemesh.io": Kind.RATE_LIMIT,
    "serviceentries.networking.istio.io": Kind.SERVICE_ENTRY,
    "workloadentries.networking.istio.io": Kind.WORKLOAD_ENTRY,
    "workloadgroups.networking.istio.io": Kind.WORKLOAD_GROUP,
    "virtualservices.networking.istio.io": Kind.VIRTUAL_SERVICE,
    "destinationrules.networking.istio.io": Kind.DESTINATION_RULE,
    "envoyfilters.networking.istio.io": Kind.ENVOY_FILTER,
    "wasmplugins.extensions.istio.io": Kind.WASM_PLUGIN,
    "gateways.networking.istio.io": Kind.ISTIO_GATEWAY,
    "gatewayclasses.gateway.networking.k8s.io": Kind.GATEWAY_CLASS,
    "gateways.gateway.networking.k8s.io": Kind.GATEWAY,
    "httproutes.gateway.networking.k8s.io": Kind.HTTP_ROUTE,
    "grpcroutes.gateway.networking.k8s.io": Kind.GRPC_ROUTE,
    "tlsroutes.gateway.networking.k8s.io": Kind.TLS_ROUTE,
    "tcproutes.gateway.networking.k8s.io": Kind.TCP_ROUTE,
    "referencegrants.gateway.networking.k8s.io": Kind.REFERENCE_GRANT,
}
"""By the name of their definition: they are read where it is there."""
VERSIONS: Final = {
    "security.istio.io": ("v1", "v1beta1"),
    "extensions.istio.io": ("v1alpha1",),
    "telemetry.istio.io": ("v1", "v1alpha1"),
    "nodemesh.io": ("v1alpha1",),
    "networking.istio.io": ("v1", "v1beta1", "v1alpha3"),
    "gateway.networking.k8s.io": ("v1", "v1beta1", "v1alpha3", "v1alpha2"),
}
"""Those that are understood, the best first."""
DEFINITIONS_PATH: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def status_path(api_version: str, kind: Kind, namespace: str, name: str) -> str:
    """Where the status of an object of a custom kind is."""
    return f"{object_path(api_version, kind, namespace, name)}/status"


def object_path(api_version: str, kind: Kind, namespace: str, name: str) -> str:
    """Where an object of a custom kind is."""
    plural = next(definition.partition(".")[0] for definition, one in CUSTOM.items() if one is kind)
    place = f"namespaces/{namespace}/{plural}" if kind.namespaced else plural
    return f"/apis/{api_version}/{place}/{name}"


def custom_type(definition: str, served: tuple[str, ...]) -> ResourceType | None:
    """How to read a custom kind of which these versions are served; None if it is none of ours, or in no version that is understood."""
    kind = CUSTOM.get(definition)
    if kind is None:
        return None
    plural, _, group = definition.partition(".")
    version = next((one for one in VERSIONS[group] if one in served), None)
    return ResourceType(kind, group, version, plural) if version else None
