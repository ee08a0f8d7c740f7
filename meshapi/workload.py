"""Workloads and services as immutable values, and their protobuf form.

Decoding applies the defaults of the wire facts and refuses (ModelError) what would make a resource mean more than it says.
"""

from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NewType

from google.protobuf.message import DecodeError
from msgspec import Struct

from meshapi import wire
from meshapi.decoding import MAX_PORT, ModelError, known
from meshapi.proto import workload_pb2 as pb
from meshapi.spiffe import IdentityError, WorkloadIdentity

IPAddress = IPv4Address | IPv6Address
WorkloadUID = NewType("WorkloadUID", str)
"""`<cluster>/<group>/<kind>/<namespace>/<name>`, for a pod `Kubernetes//Pod/ns/name`."""
ServiceKey = NewType("ServiceKey", str)
"""`<namespace>/<hostname>`."""
AddressKey = NewType("AddressKey", str)
"""`<network>/<ip>`; the default network is the empty string."""


class TunnelProtocol(IntEnum):
    NONE = 0
    HBONE = 1
    LEGACY_ISTIO_MTLS = 2


class WorkloadStatus(IntEnum):
    HEALTHY = 0
    UNHEALTHY = 1


class WorkloadType(IntEnum):
    DEPLOYMENT = 0
    CRONJOB = 1
    POD = 2
    JOB = 3


class NetworkMode(IntEnum):
    STANDARD = 0
    HOST_NETWORK = 1


class AppProtocol(IntEnum):
    UNKNOWN = 0
    HTTP11 = 1
    HTTP2 = 2
    GRPC = 3
    TCP = 4
    TLS = 5


class Scope(IntEnum):
    UNSPECIFIED = 0
    REGION = 1
    ZONE = 2
    SUBZONE = 3
    NODE = 4
    CLUSTER = 5
    NETWORK = 6


class BalancingMode(IntEnum):
    UNSPECIFIED = 0
    STRICT = 1
    FAILOVER = 2
    PASSTHROUGH = 3


class HealthPolicy(IntEnum):
    ONLY_HEALTHY = 0
    ALLOW_ALL = 1


class IPFamilies(IntEnum):
    AUTOMATIC = 0
    IPV4_ONLY = 1
    IPV6_ONLY = 2
    DUAL = 3


class Visibility(IntEnum):
    PUBLIC = 0
    NAMESPACE = 1


class Port(Struct, frozen=True, order=True):
    """`target` is 0 where the endpoint says which."""

    service: int
    target: int = 0
    protocol: AppProtocol = AppProtocol.UNKNOWN


class Locality(Struct, frozen=True):
    region: str = ""
    zone: str = ""
    subzone: str = ""


class NetworkAddress(Struct, frozen=True):
    """An address in a network; `prefix_bits` None = the single address."""

    address: IPAddress
    network: str = ""
    prefix_bits: int | None = None

    @property
    def key(self) -> AddressKey:
        return address_key(self.network, self.address)


class GatewayAddress(Struct, frozen=True):
    """Where a waypoint or network gateway is: by service (`namespace/hostname`) or by address."""

    service: ServiceKey | None = None
    address: NetworkAddress | None = None
    hbone_port: int = wire.HBONE_PORT

    @property
    def text(self) -> str:
        """As people read it."""
        return self.service or (str(self.address.address) if self.address else "")


class WeightedWaypoint(Struct, frozen=True):
    """One of several waypoints that share a service's connections by weight."""

    gateway: GatewayAddress
    weight: int = 1


class LoadBalancing(Struct, frozen=True):
    routing_preference: tuple[Scope, ...] = ()
    mode: BalancingMode = BalancingMode.UNSPECIFIED
    health_policy: HealthPolicy = HealthPolicy.ONLY_HEALTHY


class Service(Struct, frozen=True, dict=True):
    """A service; without addresses it is headless."""

    name: str
    namespace: str
    hostname: str
    addresses: tuple[NetworkAddress, ...] = ()
    ports: tuple[Port, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    load_balancing: LoadBalancing | None = None
    ip_families: IPFamilies = IPFamilies.AUTOMATIC
    canonical: bool = False
    ingress_use_waypoint: bool = False
    weighted_waypoints: tuple[WeightedWaypoint, ...] = ()
    visibility: Visibility = Visibility.PUBLIC

    @cached_property
    def key(self) -> ServiceKey:
        return service_key(self.namespace, self.hostname)

    @property
    def waypoints(self) -> tuple[WeightedWaypoint, ...]:
        """Through which its callers go: those with weights, or else the one."""
        return self.weighted_waypoints or ((WeightedWaypoint(self.waypoint),) if self.waypoint is not None else ())


class Workload(Struct, frozen=True, dict=True):
    """A workload. `services` maps each service it serves to the ports there. `capacity` is its weight (relative, default 1)."""

    uid: WorkloadUID
    name: str
    namespace: str
    addresses: tuple[IPAddress, ...] = ()
    network: str = ""
    tunnel_protocol: TunnelProtocol = TunnelProtocol.NONE
    trust_domain: str = wire.DEFAULT_TRUST_DOMAIN
    service_account: str = wire.DEFAULT_SERVICE_ACCOUNT
    waypoint: GatewayAddress | None = None
    node: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: WorkloadType = WorkloadType.POD
    workload_name: str = ""
    native_tunnel: bool = False
    authorization_policies: tuple[str, ...] = ()
    status: WorkloadStatus = WorkloadStatus.HEALTHY
    cluster: str = wire.DEFAULT_CLUSTER
    network_gateway: GatewayAddress | None = None
    hostname: str = ""
    services: dict[ServiceKey, tuple[Port, ...]] = {}
    locality: Locality = Locality()
    network_mode: NetworkMode = NetworkMode.STANDARD
    capacity: int = 1

    @cached_property
    def identity(self) -> WorkloadIdentity:
        return WorkloadIdentity(self.trust_domain, self.namespace, self.service_account)


def service_key(namespace: str, hostname: str) -> ServiceKey:
    return ServiceKey(f"{namespace}/{hostname}")


def address_key(network: str, address: IPAddress) -> AddressKey:
    return AddressKey(f"{network}/{address}")


def encode_workload(workload: Workload) -> bytes:
    """Serializes `Address{workload}`, deterministically (equal values give equal bytes)."""
    return pb.Address(workload=_message(workload)).SerializeToString(deterministic=True)


def encode_alone(workload: Workload) -> bytes:
    """Serializes the workload as it is, deterministically."""
    return _message(workload).SerializeToString(deterministic=True)


def _message(workload: Workload) -> pb.Workload:
    message = pb.Workload(
        uid=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        addresses=[address.packed for address in workload.addresses],
        network=workload.network,
        tunnel_protocol=_wire(workload.tunnel_protocol),
        trust_domain="" if workload.trust_domain == wire.DEFAULT_TRUST_DOMAIN else workload.trust_domain,
        service_account="" if workload.service_account == wire.DEFAULT_SERVICE_ACCOUNT else workload.service_account,
        waypoint=_encode_gateway(workload.waypoint),
        node=workload.node,
        canonical_name=workload.canonical_name,
        canonical_revision=workload.canonical_revision,
        workload_type=_wire(workload.workload_type),
        workload_name=workload.workload_name,
        native_tunnel=workload.native_tunnel,
        authorization_policies=workload.authorization_policies,
        status=_wire(workload.status),
        cluster_id="" if workload.cluster == wire.DEFAULT_CLUSTER else workload.cluster,
        network_gateway=_encode_gateway(workload.network_gateway),
        hostname=workload.hostname,
        services={key: pb.PortList(ports=[_encode_port(port) for port in ports]) for key, ports in workload.services.items()},
        network_mode=_wire(workload.network_mode),
    )
    if workload.locality != Locality():
        message.locality.CopyFrom(
            pb.Locality(region=workload.locality.region, zone=workload.locality.zone, subzone=workload.locality.subzone)
        )
    if workload.capacity != 1:
        message.capacity.value = workload.capacity
    return message


def encode_service(service: Service) -> bytes:
    """Serializes `Address{service}`, deterministically."""
    weighted = service.weighted_waypoints
    message = pb.Service(
        name=service.name,
        namespace=service.namespace,
        hostname=service.hostname,
        addresses=[_encode_address(address) for address in service.addresses],
        ports=[_encode_port(port) for port in service.ports],
        subject_alt_names=service.subject_alt_names,
        waypoint=_encode_gateway(service.waypoint),
        ip_families=_wire(service.ip_families),
        canonical=service.canonical,
        ingress_use_waypoint=service.ingress_use_waypoint,
        weighted_waypoints=[pb.WeightedWaypoint(destination=_encode_gateway(one.gateway), weight=one.weight) for one in weighted],
        visibility=_wire(service.visibility),
    )
    if service.load_balancing is not None:
        balancing = service.load_balancing
        message.load_balancing.CopyFrom(
            pb.LoadBalancing(
                routing_preference=[_wire(scope) for scope in balancing.routing_preference],
                mode=_wire(balancing.mode),
                health_policy=_wire(balancing.health_policy),
            )
        )
    return pb.Address(service=message).SerializeToString(deterministic=True)


def decode_address(body: bytes) -> Workload | Service:
    """Parses an Address; raises ModelError on what is malformed, unknown or out of range."""
    try:
        message = pb.Address.FromString(body)
    except DecodeError as error:
        raise ModelError(f"no Address: {error}") from error
    match message.WhichOneof("type"):
        case "workload":
            return _decode_workload(message.workload)
        case "service":
            return _decode_service(message.service)
    raise ModelError("an Address that is neither workload nor service")


def decode_alone(body: bytes) -> Workload:
    """Parses a Workload as `encode_alone` makes it; raises ModelError."""
    try:
        return _decode_workload(pb.Workload.FromString(body))
    except DecodeError as error:
        raise ModelError(f"no Workload: {error}") from error


def _decode_workload(message: pb.Workload) -> Workload:
    if not message.uid or not message.name or not message.namespace:
        raise ModelError("a workload needs uid, name and namespace")
    workload = Workload(
        uid=WorkloadUID(message.uid),
        name=message.name,
        namespace=message.namespace,
        addresses=tuple(_decode_ip(address) for address in message.addresses),
        network=message.network,
        tunnel_protocol=known(TunnelProtocol, message.tunnel_protocol, "tunnel_protocol"),
        trust_domain=message.trust_domain or wire.DEFAULT_TRUST_DOMAIN,
        service_account=message.service_account or wire.DEFAULT_SERVICE_ACCOUNT,
        waypoint=_decode_gateway(message.waypoint) if message.HasField("waypoint") else None,
        node=message.node,
        canonical_name=message.canonical_name,
        canonical_revision=message.canonical_revision,
        workload_type=known(WorkloadType, message.workload_type, "workload_type"),
        workload_name=message.workload_name,
        native_tunnel=message.native_tunnel,
        authorization_policies=tuple(message.authorization_policies),
        # An unknown status is never read as healthy.
        status=WorkloadStatus.HEALTHY if int(message.status) == WorkloadStatus.HEALTHY else WorkloadStatus.UNHEALTHY,
        cluster=message.cluster_id or wire.DEFAULT_CLUSTER,
        network_gateway=_decode_gateway(message.network_gateway) if message.HasField("network_gateway") else None,
        hostname=message.hostname,
        services={ServiceKey(key): tuple(_decode_port(port) for port in ports.ports) for key, ports in message.services.items()},
        locality=Locality(message.locality.region, message.locality.zone, message.locality.subzone),
        network_mode=known(NetworkMode, message.network_mode, "network_mode"),
        capacity=message.capacity.value if message.HasField("capacity") else 1,
    )
    try:
        _ = workload.identity
    except IdentityError as error:
        raise ModelError(f"workload {message.uid}: {error}") from error
    return workload


def _decode_service(message: pb.Service) -> Service:
    if not message.hostname or not message.namespace:
        raise ModelError("a service needs namespace and hostname")
    balancing = None
    if message.HasField("load_balancing"):
        balancing = LoadBalancing(
            routing_preference=tuple(known(Scope, scope, "routing_preference") for scope in message.load_balancing.routing_preference),
            mode=known(BalancingMode, message.load_balancing.mode, "load_balancing.mode"),
            health_policy=known(HealthPolicy, message.load_balancing.health_policy, "health_policy"),
        )
    return Service(
        name=message.name,
        namespace=message.namespace,
        hostname=message.hostname,
        addresses=tuple(_decode_network_address(address) for address in message.addresses),
        ports=tuple(_decode_port(port) for port in message.ports),
        subject_alt_names=tuple(message.subject_alt_names),
        waypoint=_decode_gateway(message.waypoint) if message.HasField("waypoint") else None,
        load_balancing=balancing,
        ip_families=known(IPFamilies, message.ip_families, "ip_families"),
        canonical=message.canonical,
        ingress_use_waypoint=message.ingress_use_waypoint,
        weighted_waypoints=tuple(WeightedWaypoint(_decode_gateway(one.destination), one.weight) for one in message.weighted_waypoints),
        visibility=known(Visibility, message.visibility, "visibility"),
    )


def _decode_ip(packed: bytes) -> IPAddress:
    if len(packed) not in {4, 16}:
        raise ModelError(f"an address of {len(packed)} bytes: must be 4 or 16")
    return ip_address(packed)


def _decode_port(port: pb.Port) -> Port:
    if not 0 < port.service_port <= MAX_PORT or port.target_port > MAX_PORT:
        raise ModelError(f"port {port.service_port} -> {port.target_port}: must be 1 to {MAX_PORT}")
    protocol = AppProtocol(int(port.app_protocol)) if int(port.app_protocol) in set(AppProtocol) else AppProtocol.UNKNOWN
    return Port(service=port.service_port, target=port.target_port, protocol=protocol)


def _decode_network_address(address: pb.NetworkAddress) -> NetworkAddress:
    prefix = address.length if address.HasField("length") else None
    ip = _decode_ip(address.address)
    if prefix is not None and prefix > ip.max_prefixlen:
        raise ModelError(f"{ip}/{prefix}: the prefix is longer than the address")
    return NetworkAddress(address=ip, network=address.network, prefix_bits=prefix)


def _decode_gateway(gateway: pb.GatewayAddress) -> GatewayAddress:
    port = gateway.hbone_mtls_port or wire.HBONE_PORT
    match gateway.WhichOneof("destination"):
        case "hostname":
            return GatewayAddress(service=service_key(gateway.hostname.namespace, gateway.hostname.hostname), hbone_port=port)
        case "address":
            return GatewayAddress(address=_decode_network_address(gateway.address), hbone_port=port)
    raise ModelError("a gateway address without destination")


def _encode_port(port: Port) -> pb.Port:
    return pb.Port(service_port=port.service, target_port=port.target, app_protocol=_wire(port.protocol))


def _encode_address(address: NetworkAddress) -> pb.NetworkAddress:
    return pb.NetworkAddress(network=address.network, address=address.address.packed, length=address.prefix_bits)


def _encode_gateway(gateway: GatewayAddress | None) -> pb.GatewayAddress | None:
    if gateway is None:
        return None
    message = pb.GatewayAddress(hbone_mtls_port=gateway.hbone_port)
    if gateway.service is not None:
        namespace, _, hostname = gateway.service.partition("/")
        message.hostname.CopyFrom(pb.NamespacedHostname(namespace=namespace, hostname=hostname))
    elif gateway.address is not None:
        message.address.CopyFrom(_encode_address(gateway.address))
    return message


def _wire(value: IntEnum) -> Any:
    """Any: the generated stubs type enum fields with a NewType of their own."""
    return int(value)
