"""Gateway API's Gateway: where waypoints and gateways are asked for."""

from typing import ClassVar

from msgspec import Struct, field

from control.kinds.core import Object
from control.kinds.metadata import Kind


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


class AllowedRoutes(Struct, frozen=True):
    namespaces: RouteNamespaces = RouteNamespaces()


class GatewayListener(Struct, frozen=True, rename="camel"):
    name: str
    port: int
    protocol: str
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(Struct, frozen=True, rename="camel"):
    gateway_class_name: str
    listeners: tuple[GatewayListener, ...] = ()
    addresses: tuple[GatewayAddress, ...] = ()


class GatewayStatus(Struct, frozen=True):
    addresses: tuple[GatewayAddress, ...] = ()


class Gateway(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.GATEWAY
    spec: GatewaySpec
    status: GatewayStatus = GatewayStatus()
