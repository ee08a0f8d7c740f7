"""The services of the mesh as translation sees them: what a service is, apart from the endpoints that serve it now.

Made from the mesh's model, and kept apart so that an endpoint that changes is no change of its service.
"""

from enum import StrEnum

from msgspec import Struct

from control.kinds import MeshObject, ObjectKey, Pod, Service, ServiceEntry, WorkloadEntry
from control.kinds.core import Object
from control.validation import values
from meshapi import workload as mesh
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import (
    AppProtocol,
    GatewayAddress,
    HealthPolicy,
    IPAddress,
    LoadBalancing,
    Locality,
    ServiceKey,
    TunnelProtocol,
    WorkloadStatus,
    WorkloadUID,
)

EXPORT_ANNOTATION = "networking.istio.io/exportTo"


class Resolution(StrEnum):
    """How the endpoints of a service are found; NONE: the client's own destination is the endpoint."""

    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    NONE = "NONE"


class CatalogPort(Struct, frozen=True):
    """`protocol` UNKNOWN: to be told from the first bytes of each connection."""

    number: int
    name: str = ""
    protocol: AppProtocol = AppProtocol.UNKNOWN

    @property
    def http(self) -> bool:
        return self.protocol in {AppProtocol.HTTP11, AppProtocol.HTTP2, AppProtocol.GRPC}

    @property
    def sniffed(self) -> bool:
        return self.protocol is AppProtocol.UNKNOWN


class CatalogService(Struct, frozen=True):
    """A service. `export_to` empty = everywhere. `owner` is the object that defines it.

    `ingress_use_waypoint`: gateways go through its waypoint, too.
    """

    key: ServiceKey
    name: str
    namespace: str
    hostname: str
    owner: ObjectKey
    addresses: tuple[IPAddress, ...] = ()
    ports: tuple[CatalogPort, ...] = ()
    resolution: Resolution = Resolution.STATIC
    subject_alt_names: tuple[str, ...] = ()
    export_to: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    waypoint: GatewayAddress | None = None
    ingress_use_waypoint: bool = False
    load_balancing: LoadBalancing | None = None

    def port(self, number: int) -> CatalogPort | None:
        return next((port for port in self.ports if port.number == number), None)

    @property
    def external(self) -> bool:
        """Whether it is of a ServiceEntry."""
        return self.owner.kind == ServiceEntry.kind_of

    @property
    def by_dns(self) -> bool:
        """Whether its endpoints are host names to be looked up."""
        return self.resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}

    @property
    def wildcard(self) -> bool:
        return self.hostname.startswith("*.")

    @property
    def unplaced(self) -> bool:
        """Whether its endpoint would be what clients dial, and that is an address which the mesh made up."""
        made_up = bool(self.addresses) and all(values.is_handed_out(one) for one in self.addresses)
        return self.resolution is Resolution.NONE and made_up

    @property
    def takes_unhealthy(self) -> bool:
        return self.load_balancing is not None and self.load_balancing.health_policy is HealthPolicy.ALLOW_ALL

    def visible_to(self, namespace: str) -> bool:
        """Whether the configuration of a namespace may name it."""
        own = {"*", namespace} | ({"."} if namespace == self.namespace else set())
        return not self.export_to or bool(own & set(self.export_to))


class Endpoint(Struct, frozen=True):
    """One workload of a service.

    `address` is an IP address, or a host name that is to be looked up; `targets` are the ports of the workload by those of the service.
    `identity` is who its end of a tunnel must be, None where it takes no tunnel.
    """

    uid: WorkloadUID
    namespace: str
    name: str
    address: str
    targets: dict[int, int]
    labels: dict[str, str] = {}
    locality: Locality = Locality()
    weight: int = 1
    healthy: bool = True
    identity: WorkloadIdentity | None = None
    network: str = ""
    by_name: bool = False
    workload_name: str = ""
    canonical: tuple[str, str] = ("", "")
    """Name and revision."""
    cluster: str = ""


def catalog_service(service: mesh.Service, item: MeshObject) -> CatalogService | None:
    """What the model serves, joined with what only its object says."""
    match item:
        case Service():
            names = {port.port: port.name for port in item.spec.ports if port.protocol == "TCP"}
            export = item.metadata.annotations.get(EXPORT_ANNOTATION, "")
            resolution, export_to = Resolution.STATIC, tuple(part.strip() for part in export.split(",") if part.strip())
        case ServiceEntry():
            names = {port.number: port.name for port in item.spec.ports}
            resolution, export_to = Resolution(item.spec.resolution), item.spec.export_to
        case _:
            return None
    return CatalogService(
        key=service.key,
        name=service.name,
        namespace=service.namespace,
        hostname=service.hostname,
        owner=item.key,
        addresses=tuple(one.address for one in service.addresses),
        ports=tuple(CatalogPort(port.service, names.get(port.service, ""), port.protocol) for port in service.ports),
        resolution=resolution,
        subject_alt_names=service.subject_alt_names,
        export_to=export_to,
        labels=item.metadata.labels,
        waypoint=service.waypoint,
        ingress_use_waypoint=service.ingress_use_waypoint,
        load_balancing=service.load_balancing,
    )


def endpoint(workload: mesh.Workload, item: MeshObject, service: ServiceKey) -> Endpoint | None:
    """A workload as an endpoint of one of its services; None if it has no address that could be dialled."""
    address = str(workload.addresses[0]) if workload.addresses else workload.hostname
    if not address:
        return None
    return Endpoint(
        uid=workload.uid,
        namespace=workload.namespace,
        name=workload.name,
        address=address,
        targets={port.service: port.target for port in workload.services.get(service, ())},
        labels=_labels(item, address),
        locality=workload.locality,
        weight=workload.capacity,
        healthy=workload.status is WorkloadStatus.HEALTHY,
        identity=workload.identity if workload.tunnel_protocol is TunnelProtocol.HBONE else None,
        network=workload.network,
        by_name=not workload.addresses,
        workload_name=workload.workload_name,
        canonical=(workload.canonical_name, workload.canonical_revision),
        cluster=workload.cluster,
    )


def _labels(item: Object, address: str) -> dict[str, str]:
    """The labels that choose subsets."""
    match item:
        case Pod():
            return item.metadata.labels
        case WorkloadEntry():
            return item.labels
        case ServiceEntry():
            return next((dict(one.labels) for one in item.spec.endpoints if one.address == address), {})
    return {}
