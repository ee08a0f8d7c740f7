"""Gateway API's Gateway: where waypoints and gateways are asked for."""

from typing import ClassVar

from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind


class GatewayListener(Struct, frozen=True, rename="camel"):
    name: str
    port: int
    protocol: str


class GatewaySpec(Struct, frozen=True, rename="camel"):
    gateway_class_name: str
    listeners: tuple[GatewayListener, ...] = ()


class GatewayAddress(Struct, frozen=True):
    value: str = ""
    type: str = "IPAddress"


class GatewayStatus(Struct, frozen=True):
    addresses: tuple[GatewayAddress, ...] = ()


class Gateway(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.GATEWAY
    spec: GatewaySpec
    status: GatewayStatus = GatewayStatus()
