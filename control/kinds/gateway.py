"""Gateway API's Gateway and its class: where waypoints and gateways are asked for."""

from typing import ClassVar

from msgspec import Struct, field

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.routing import Strict

GROUP = "gateway.networking.k8s.io"


class GatewayAddress(Struct, frozen=True):
    value: str = ""
    type: str = "IPAddress"


class LabelRequirement(Struct, frozen=True):
    key: str
    operator: str
    values: tuple[str, ...] = ()


class LabelSelector(Struct, frozen=True, rename="camel"):
    """Kubernetes' own; without anything in it, it selects all."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelRequirement, ...] = ()


class RouteNamespaces(Struct, frozen=True):
    """From which namespaces a listener takes routes, and a waypoint traffic: `All`, `Same`, or `Selector`."""

    origin: str = field(default="Same", name="from")
    selector: LabelSelector | None = None


class RouteGroupKind(Struct, frozen=True):
    kind: str
    group: str = GROUP


class AllowedRoutes(Struct, frozen=True):
    """`kinds` is empty where those that fit the protocol are meant."""

    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class ObjectReference(Strict, frozen=True):
    """An object, of the referrer's own namespace unless it says another."""

    name: str
    group: str = ""
    kind: str = "Secret"
    namespace: str = ""


class FrontendValidation(Strict, frozen=True):
    """By what the certificates of clients are judged. `mode`: `AllowValidOnly` or `AllowInsecureFallback`."""

    ca_certificate_refs: tuple[ObjectReference, ...] = ()
    mode: str = "AllowValidOnly"


class ListenerTLS(Strict, frozen=True):
    """Nothing in it is passed over: a client certificate that is not asked for would let everybody in."""

    mode: str = "Terminate"
    certificate_refs: tuple[ObjectReference, ...] = ()
    frontend_validation: FrontendValidation | None = None
    options: dict[str, str] = field(default_factory=dict)


class GatewayListener(Struct, frozen=True, rename="camel"):
    name: str
    port: int
    protocol: str
    hostname: str = ""
    tls: ListenerTLS | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class FrontendTLS(Strict, frozen=True):
    validation: FrontendValidation | None = None


class PortTLS(Strict, frozen=True):
    port: int
    tls: FrontendTLS = FrontendTLS()


class FrontendTLSConfig(Strict, frozen=True):
    """What all listeners ask of clients, and those of some ports in its place."""

    default: FrontendTLS = FrontendTLS()
    per_port: tuple[PortTLS, ...] = ()


class BackendTLSConfig(Strict, frozen=True):
    client_certificate_ref: ObjectReference | None = None


class GatewayTLSConfig(Strict, frozen=True):
    frontend: FrontendTLSConfig | None = None
    backend: BackendTLSConfig | None = None


class GatewayInfrastructure(Struct, frozen=True):
    """What goes onto everything that is made for the Gateway."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class GatewaySpec(Struct, frozen=True, rename="camel"):
    gateway_class_name: str
    listeners: tuple[GatewayListener, ...] = ()
    addresses: tuple[GatewayAddress, ...] = ()
    infrastructure: GatewayInfrastructure = GatewayInfrastructure()
    tls: GatewayTLSConfig | None = None


class GatewayStatus(Struct, frozen=True):
    addresses: tuple[GatewayAddress, ...] = ()


class Gateway(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.GATEWAY
    spec: GatewaySpec
    status: GatewayStatus = GatewayStatus()


class GatewayClassSpec(Struct, frozen=True, rename="camel"):
    controller_name: str


class GatewayClass(Object, frozen=True, rename="camel", kw_only=True):
    """Who answers for the Gateways of a class."""

    kind_of: ClassVar[Kind] = Kind.GATEWAY_CLASS
    spec: GatewayClassSpec
