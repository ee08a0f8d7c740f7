"""Services and ServiceEntries as the mesh's services, and the ports that a workload serves of each."""

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from control.kinds import EndpointSlice, Pod, Service, ServiceEntry
from control.kinds.networking import EntryWorkload
from control.model.settings import MeshSettings
from control.validation import values
from meshapi import workload as mesh
from meshapi.names import MAX_NAME, Host, NamedPort
from meshapi.workload import (
    AppProtocol,
    BalancingMode,
    HealthPolicy,
    IPAddress,
    IPFamilies,
    LoadBalancing,
    NetworkAddress,
    Port,
    Scope,
    ServiceKey,
    Visibility,
)

DISTRIBUTION_ANNOTATION: Final = "networking.istio.io/traffic-distribution"
AUTO_ADDRESS_LABEL: Final = "networking.istio.io/enable-autoallocate-ip"
EXPORT_ANNOTATION: Final = "networking.istio.io/exportTo"
_ALIAS_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_ZONES: Final = (Scope.NETWORK, Scope.REGION, Scope.ZONE)
_PREFER_CLOSE: Final = LoadBalancing((*_ZONES, Scope.SUBZONE), BalancingMode.FAILOVER)
_DISTRIBUTIONS: Final = {
    "preferclose": _PREFER_CLOSE,
    "prefersamezone": _PREFER_CLOSE,
    "prefersamenode": LoadBalancing((*_ZONES, Scope.SUBZONE, Scope.NODE), BalancingMode.FAILOVER),
}
_SAME_NODE_ONLY: Final = LoadBalancing((Scope.NODE,), BalancingMode.STRICT)
_PROTOCOLS: Final = {
    "http": AppProtocol.HTTP11,
    "kubernetes.io/ws": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "kubernetes.io/h2c": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "grpc-web": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "mongo": AppProtocol.TCP,
    "mysql": AppProtocol.TCP,
    "redis": AppProtocol.TCP,
    "tls": AppProtocol.TLS,
    "https": AppProtocol.TLS,
    "kubernetes.io/wss": AppProtocol.TLS,
}
_SERVER_FIRST: Final = frozenset({25, 53, 3306, 27017})
"""Ports (SMTP, DNS, MySQL, MongoDB) that Istio takes for TCP where nothing is said: clients do not speak first there."""


class BoundPort(Struct, frozen=True):
    """A service port as workloads see it: `target` is its number, or 0 where `target_name` is to be looked up at the workload."""

    number: int
    name: str
    target: int
    target_name: str = ""


class BoundService(Struct, frozen=True):
    """What a workload needs to know of a service in order to serve it."""

    keys: tuple[ServiceKey, ...]
    ports: tuple[BoundPort, ...]
    of_entry: bool = False


def kubernetes_service(service: Service, settings: MeshSettings) -> mesh.Service:
    """A Kubernetes service; ports that are not TCP stay outside of the mesh."""
    meta = service.metadata
    return mesh.Service(
        name=meta.name,
        namespace=meta.namespace,
        hostname=settings.hostname(meta.name, meta.namespace),
        addresses=tuple(NetworkAddress(values.serving_address(text), settings.network) for text in service.addresses),
        ports=tuple(
            Port(port.number, port.target, _protocol(protocol, port.name, port.number))
            for port, protocol in zip(bound_service(service, settings).ports, _protocols(service), strict=True)
        ),
        load_balancing=_balancing(service),
        ip_families=_families(service.spec.ip_families),
        visibility=_visibility(tuple(part.strip() for part in meta.annotations.get(EXPORT_ANNOTATION, "*").split(","))),
    )


def bound_service(service: Service, settings: MeshSettings) -> BoundService:
    """A Kubernetes service as its workloads see it."""
    ports = tuple(
        BoundPort(port.port, port.name, 0, port.target_port)
        if isinstance(port.target_port, str)
        else BoundPort(port.port, port.name, port.target_port or port.port)
        for port in service.spec.ports
        if port.protocol == "TCP"
    )
    meta = service.metadata
    return BoundService((mesh.service_key(meta.namespace, settings.hostname(meta.name, meta.namespace)),), ports)


def entry_services(entry: ServiceEntry, settings: MeshSettings) -> tuple[mesh.Service, ...]:
    """One service for each host of a ServiceEntry."""
    meta, spec = entry.metadata, entry.spec
    balancing = _DISTRIBUTIONS.get(meta.annotations.get(DISTRIBUTION_ANNOTATION, "").lower())
    if spec.resolution == "NONE":
        # The client's own destination is the endpoint: there is nothing to choose, and health is not asked for.
        balancing = LoadBalancing(mode=BalancingMode.PASSTHROUGH, health_policy=HealthPolicy.ALLOW_ALL)
    return tuple(
        mesh.Service(
            name=meta.name,
            namespace=meta.namespace,
            hostname=host,
            addresses=tuple(NetworkAddress(address, settings.network) for address in stated_addresses(entry)),
            ports=tuple(
                Port(port.number, port.target_port or port.number, _protocol(port.protocol.lower(), port.name, port.number))
                for port in spec.ports
            ),
            subject_alt_names=spec.subject_alt_names,
            load_balancing=balancing,
            visibility=_visibility(spec.export_to),
        )
        for host in spec.hosts
        if foreign_host(host, meta.namespace, settings.domain) is None
    )


def stated_addresses(entry: ServiceEntry) -> tuple[IPAddress, ...]:
    """What a ServiceEntry says; addresses that are the mesh's to hand out are nobody's to state."""
    stated = (values.single_address(text) for text in entry.spec.addresses)
    return tuple(address for address in stated if not values.is_handed_out(address))


def needs_addresses(entry: ServiceEntry) -> bool:
    """Whether its hosts are to be given addresses, so that their names lead to the mesh."""
    wanted = entry.metadata.labels.get(AUTO_ADDRESS_LABEL) != "false"
    return wanted and not stated_addresses(entry)


def is_reached(entry: ServiceEntry, service: mesh.Service) -> bool:
    """Whether an address of the mesh's own would lead to a host: node agents look no names up, a waypoint does, of wildcards too."""
    return service.waypoint is not None or (entry.spec.resolution == "STATIC" and not service.hostname.startswith("*"))


def with_addresses(service: mesh.Service, addresses: tuple[IPAddress, ...], settings: MeshSettings) -> mesh.Service:
    """A service with addresses that were handed out."""
    return replace(service, addresses=tuple(NetworkAddress(address, settings.network) for address in addresses))


def aliased(service: Service, settings: MeshSettings) -> Host | None:
    """What the name of an ExternalName service stands for in DNS; None if it says nothing that can be looked up."""
    meta, alias = service.metadata, service.spec.external_name.lower().removesuffix(".")
    if not is_alias(alias):
        return None
    visibility = _visibility(tuple(part.strip() for part in meta.annotations.get(EXPORT_ANNOTATION, "*").split(",")))
    return Host(settings.hostname(meta.name, meta.namespace), private=visibility is Visibility.NAMESPACE, alias=alias)


def named_ports(service: Service, settings: MeshSettings) -> tuple[NamedPort, ...]:
    """Those that DNS tells of: also of UDP, which workloads do not serve in the mesh."""
    by_tcp = (NamedPort(port.number, port.name) for port in bound_service(service, settings).ports)
    by_udp = (
        NamedPort(port.port, port.name, udp=True, target=port.target_port or port.port if not isinstance(port.target_port, str) else 0)
        for port in service.spec.ports
        if port.protocol == "UDP"
    )
    return (*by_tcp, *by_udp)


def named(service: mesh.Service, ports: tuple[NamedPort, ...], settings: MeshSettings) -> Host | None:
    """What the service's name stands for in DNS; None if that is not the mesh's to say: without addresses only the cluster's do."""
    if not service.addresses and not service.hostname.endswith(f".svc.{settings.domain}"):
        return None
    return Host(
        hostname=service.hostname,
        addresses=tuple(one.address for one in service.addresses),
        ports=ports,
        private=service.visibility is Visibility.NAMESPACE,
    )


def bound_entry(entry: ServiceEntry, settings: MeshSettings) -> BoundService:
    """A ServiceEntry as its workloads see it."""
    ports = tuple(BoundPort(port.number, port.name, port.target_port or port.number) for port in entry.spec.ports)
    return BoundService(tuple(service.key for service in entry_services(entry, settings)), ports, of_entry=True)


def is_alias(name: str) -> bool:
    """Whether an ExternalName can be looked up as it stands."""
    labels = name.split(".")
    return len(name) <= MAX_NAME and all(_ALIAS_LABEL.fullmatch(label) for label in labels)


def foreign_host(host: str, namespace: str, domain: str) -> str | None:
    """Why a host is not this namespace's to define: names of the cluster belong to the namespace that they contain."""
    suffix = next((suffix for suffix in (f".svc.{domain}", ".svc", f".{domain}") if host.endswith(suffix)), None)
    if host.startswith("*") and (suffix or f".svc.{domain}".endswith(host[1:])):
        return f"{host} would cover names of the cluster"
    if suffix is None or (suffix == f".svc.{domain}" and host.removesuffix(suffix).split(".")[1:] == [namespace]):
        return None
    return f"{host} is a name of the cluster, of which namespace {namespace} defines only <name>.{namespace}.svc.{domain}"


def pod_ports(pod: Pod, service: BoundService) -> tuple[Port, ...]:
    """The ports of a service at a pod; a named target port that the pod lacks is left out."""
    named = {
        port.name: port.container_port
        for container in (*reversed(pod.spec.init_containers), *reversed(pod.spec.containers))
        for port in reversed(container.ports)
        if port.name and port.protocol == "TCP"
    }
    targets = ((port.number, named.get(port.target_name, 0) if port.target_name else port.target) for port in service.ports)
    return tuple(Port(number, target) for number, target in targets if target)


def entry_ports(endpoint: EntryWorkload, service: BoundService) -> tuple[Port, ...]:
    """The ports of a service at an entry: a Service names target ports, a ServiceEntry's ports go by their own names."""
    ports = []
    for port in service.ports:
        if service.of_entry:
            target = endpoint.ports.get(port.name, port.target)
        else:
            target = endpoint.ports.get(port.target_name, 0) if port.target_name else port.target
        if target:
            ports.append(Port(port.number, target))
    return tuple(ports)


def slice_ports(endpoints: EndpointSlice, service: BoundService) -> tuple[Port, ...]:
    """The ports of a service at the endpoints of a slice, which are matched by the names of the service's ports."""
    targets = {port.name: port.port for port in endpoints.ports if port.port and port.protocol == "TCP"}
    return tuple(Port(port.number, targets[port.name]) for port in service.ports if port.name in targets)


def _protocols(service: Service) -> list[str]:
    return [port.app_protocol.lower() for port in service.spec.ports if port.protocol == "TCP"]


def _protocol(stated: str, name: str, port: int) -> AppProtocol:
    """What `appProtocol` says, or else the port's name (`http`, `grpc-something`), or else its number."""
    otherwise = AppProtocol.TCP if port in _SERVER_FIRST else AppProtocol.UNKNOWN
    return _PROTOCOLS.get(stated or name.partition("-")[0], otherwise)


def _balancing(service: Service) -> LoadBalancing | None:
    stated = service.spec.traffic_distribution or service.metadata.annotations.get(DISTRIBUTION_ANNOTATION, "")
    balancing = _DISTRIBUTIONS.get(stated.lower())
    if service.spec.internal_traffic_policy == "Local":
        balancing = _SAME_NODE_ONLY
    if service.spec.publish_not_ready_addresses:
        base = balancing or LoadBalancing()
        balancing = LoadBalancing(base.routing_preference, base.mode, HealthPolicy.ALLOW_ALL)
    return balancing


def _families(families: tuple[str, ...]) -> IPFamilies:
    if len(families) == 2:
        return IPFamilies.DUAL
    if len(families) == 1:
        return IPFamilies.IPV4_ONLY if families[0] == "IPv4" else IPFamilies.IPV6_ONLY
    return IPFamilies.AUTOMATIC


def _visibility(export_to: tuple[str, ...]) -> Visibility:
    """Anything but everywhere is narrowed to the own namespace: a list of namespaces can't be expressed."""
    return Visibility.PUBLIC if export_to in {(), ("*",)} else Visibility.NAMESPACE
