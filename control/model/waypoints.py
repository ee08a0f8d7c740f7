"""Which waypoint an object's traffic goes through, and why not: pure functions of labels and Gateways.

As in Istio: the label `istio.io/use-waypoint` of the object, else of its namespace, names a Gateway (`none`: no waypoint); the Gateway
says what traffic it is for and which namespaces it takes. Where that does not come together, traffic goes its direct way.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from control.kinds import Gateway, Kind, ObjectKey, Service
from control.kinds.gateway import GatewayAddress as StatedAddress
from control.kinds.gateway import LabelRequirement, LabelSelector, RouteNamespaces
from control.model.labels import Labels, selects
from control.model.settings import MeshSettings
from control.validation import values
from meshapi import wire
from meshapi.workload import GatewayAddress, IPAddress, NetworkAddress, service_key

NO_WAYPOINT: Final = "none"
HBONE: Final = "HBONE"


class Traffic(StrEnum):
    """What a waypoint is for."""

    SERVICE = "service"
    WORKLOAD = "workload"
    ALL = "all"
    NONE = "none"


class Waypoint(Struct, frozen=True):
    """A waypoint. Without an `address` it is nowhere yet; `principals` are the identities of its workloads, as policies write them."""

    key: ObjectKey
    traffic: Traffic
    namespaces: RouteNamespaces
    address: GatewayAddress | None = None
    principals: tuple[str, ...] = ()

    def takes(self, kind: Kind) -> bool:
        """Whether it is for traffic to objects of this kind."""
        return self.traffic in ({Traffic.SERVICE, Traffic.ALL} if kind in SERVICE_KINDS else {Traffic.WORKLOAD, Traffic.ALL})


SERVICE_KINDS: Final = frozenset({Kind.SERVICE, Kind.SERVICE_ENTRY})


class Binding(Struct, frozen=True):
    """The waypoint that an object's traffic goes through; or the one that it asks for, and the reason why it does not."""

    wanted: ObjectKey | None = None
    waypoint: Waypoint | None = None
    reason: str = ""
    message: str = ""


UNBOUND: Final = Binding()


def is_waypoint(gateway: Gateway) -> bool:
    """By its class, or, for those of others, because it takes tunnels."""
    spec = gateway.spec
    return spec.gateway_class_name in wire.WAYPOINT_CLASSES or any(listener.protocol == HBONE for listener in spec.listeners)


def waypoint(gateway: Gateway, service: Service | None, principals: tuple[str, ...], settings: MeshSettings) -> Waypoint | None:
    """A Gateway as a waypoint, None if it is none. `service` is the one of its name, which is where it is if it does not say where."""
    if not is_waypoint(gateway):
        return None
    stated = gateway.metadata.labels.get(wire.LABEL_WAYPOINT_FOR, Traffic.SERVICE)
    listener = next((one for one in gateway.spec.listeners if one.protocol == HBONE), None)
    return Waypoint(
        key=gateway.key,
        # An unknown word is never read as the wider one.
        traffic=Traffic(stated) if stated in set(Traffic) else Traffic.NONE,
        namespaces=listener.allowed_routes.namespaces if listener is not None else RouteNamespaces(),
        address=_address(gateway, service, settings, listener.port if listener is not None else wire.HBONE_PORT),
        principals=principals,
    )


def own_service(gateway: Gateway, settings: MeshSettings) -> ObjectKey:
    """The service by which a waypoint is reached: the one that its address names, or of its own name."""
    namespace, suffix = gateway.metadata.namespace, f".{gateway.metadata.namespace}.svc.{settings.domain}"
    named = next((one.value for one in _stated(gateway) if one.type == "Hostname" and one.value.endswith(suffix)), "")
    return ObjectKey(Kind.SERVICE, namespace, named.removesuffix(suffix) or gateway.metadata.name)


def is_reached_by(gateway: Gateway, service: Service, settings: MeshSettings) -> bool:
    """Whether a Gateway's addresses, names or numbers, are the service's; one that states none is reached by the service of its name."""
    stated = {one.value for one in _stated(gateway)}
    own = {settings.hostname(service.metadata.name, service.metadata.namespace), *service.addresses}
    return not stated or not stated.isdisjoint(own)


def wanted(own: Labels, of_namespace: Labels, namespace: str) -> ObjectKey | None:
    """The Gateway that an object asks for by its label, or its namespace does for it; its own label wins, `none` included."""
    for labels in (own, of_namespace):
        name = labels.get(wire.LABEL_USE_WAYPOINT)
        if name:
            at = labels.get(wire.LABEL_USE_WAYPOINT_NAMESPACE) or namespace
            return ObjectKey(Kind.GATEWAY, at, name) if name != NO_WAYPOINT else None
    return None


def bind(key: ObjectKey, asked: ObjectKey | None, found: Waypoint | None, of_namespace: Labels) -> Binding:
    """Binds an object to the waypoint that it asks for; `of_namespace` are the labels of the object's own namespace."""
    if asked is None:
        return UNBOUND
    name = f"{asked.namespace}/{asked.name}"
    if found is None:
        return Binding(asked, None, "WaypointIsNotReady", f"the waypoint {name} does not exist")
    if found.address is None:
        return Binding(asked, None, "WaypointIsNotReady", f"the waypoint {name} has no address yet, and no service of its name")
    if not _admits(found, key.namespace, of_namespace):
        return Binding(asked, None, "AttachmentDenied", f"the waypoint {name} does not take traffic of namespace {key.namespace}")
    if not found.takes(key.kind):
        what = "services" if key.kind in SERVICE_KINDS else "workloads"
        return Binding(asked, None, "UnsupportedTrafficType", f"the waypoint {name} is for {found.traffic}, not for {what}")
    return Binding(asked, found)


def label_selector_matches(selector: LabelSelector, labels: Labels) -> bool:
    """As Kubernetes has it; an operator that is not known matches nothing."""
    return selects(selector.match_labels, labels) and all(_meets(one, labels) for one in selector.match_expressions)


def _meets(requirement: LabelRequirement, labels: Labels) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False


def _admits(found: Waypoint, namespace: str, labels: Labels) -> bool:
    allowed = found.namespaces
    match allowed.origin:
        case "All":
            return True
        case "Selector":
            return allowed.selector is not None and label_selector_matches(allowed.selector, labels)
    return found.key.namespace == namespace


def _stated(gateway: Gateway) -> Iterable[StatedAddress]:
    return (*gateway.status.addresses, *gateway.spec.addresses)


def _address(gateway: Gateway, service: Service | None, settings: MeshSettings, port: int) -> GatewayAddress | None:
    """By name where there is one: a name is the key of a service, while addresses come and go, and are several."""
    namespace = gateway.metadata.namespace
    for one in _stated(gateway):
        if one.type == "Hostname" and one.value:
            return GatewayAddress(service=service_key(namespace, one.value), hbone_port=port)
    address = next((found for one in _stated(gateway) if one.type == "IPAddress" and (found := _ip(one.value)) is not None), None)
    if address is not None:
        return GatewayAddress(address=NetworkAddress(address, settings.network), hbone_port=port)
    if service is None or service.external or all(entry.port != port for entry in service.spec.ports):
        return None
    return GatewayAddress(service=service_key(namespace, settings.hostname(service.metadata.name, namespace)), hbone_port=port)


def _ip(text: str) -> IPAddress | None:
    """None for one that nobody can serve at; the checks say so."""
    try:
        return values.serving_address(text)
    except ValueError:
        return None
