"""Kubernetes' own kinds."""

from typing import ClassVar

from msgspec import Struct, field

from control.kinds.metadata import Kind, Meta, ObjectKey


class Object(Struct, frozen=True, rename="camel"):
    """What all kinds share."""

    kind_of: ClassVar[Kind]
    metadata: Meta

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.kind_of, self.metadata.namespace, self.metadata.name)


class Namespace(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.NAMESPACE


class NodeAddress(Struct, frozen=True):
    address: str
    type: str = ""


class NodeSpec(Struct, frozen=True, rename="camel"):
    pod_cidr: str = field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = field(default=(), name="podCIDRs")


class NodeStatus(Struct, frozen=True):
    addresses: tuple[NodeAddress, ...] = ()


class Node(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.NODE
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def networks(self) -> tuple[str, ...]:
        """The addresses of the node, and the blocks that its pods have theirs from."""
        blocks = self.spec.pod_cidrs or ((self.spec.pod_cidr,) if self.spec.pod_cidr else ())
        return (*(one.address for one in self.status.addresses if one.type in {"InternalIP", "ExternalIP"}), *blocks)


class ServiceAccount(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.SERVICE_ACCOUNT


class ContainerPort(Struct, frozen=True, rename="camel"):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Struct, frozen=True, rename="camel"):
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(Struct, frozen=True, rename="camel"):
    node_name: str = ""
    service_account_name: str = "default"
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(Struct, frozen=True):
    ip: str


class PodCondition(Struct, frozen=True):
    type: str
    status: str


class PodStatus(Struct, frozen=True, rename="camel"):
    """`phase` is Pending until somebody says otherwise, as in the API server."""

    phase: str = "Pending"
    pod_ip: str = field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = field(default=(), name="podIPs")
    conditions: tuple[PodCondition, ...] = ()


class Pod(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.POD
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def live(self) -> bool:
        """Whether it runs or will: the only pods that get addresses, identities and traffic."""
        return self.status.phase in {"Pending", "Running"}

    @property
    def addresses(self) -> tuple[str, ...]:
        if self.status.pod_ips:
            return tuple(entry.ip for entry in self.status.pod_ips)
        return (self.status.pod_ip,) if self.status.pod_ip else ()

    @property
    def ready(self) -> bool | None:
        """What the Ready condition says; None without one."""
        return next((condition.status == "True" for condition in self.status.conditions if condition.type == "Ready"), None)


class ServicePort(Struct, frozen=True, rename="camel"):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    app_protocol: str = ""


class ServiceSpec(Struct, frozen=True, rename="camel"):
    type: str = "ClusterIP"
    cluster_ip: str = field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    ip_families: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    publish_not_ready_addresses: bool = False
    traffic_distribution: str = ""
    internal_traffic_policy: str = "Cluster"
    external_name: str = ""


class ServiceCondition(Struct, frozen=True, rename="camel"):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class LoadBalancerIngress(Struct, frozen=True):
    """Where the world reaches a Service: an address or a name."""

    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Struct, frozen=True):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Struct, frozen=True, rename="camel"):
    conditions: tuple[ServiceCondition, ...] = ()
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.SERVICE
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The virtual addresses; a headless service has none."""
        stated = self.spec.cluster_ips or (self.spec.cluster_ip,)
        return tuple(address for address in stated if address not in {"", "None"})

    @property
    def external(self) -> bool:
        return self.spec.type == "ExternalName"


class TargetRef(Struct, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""


class EndpointConditions(Struct, frozen=True):
    ready: bool | None = None


class Endpoint(Struct, frozen=True, rename="camel"):
    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    target_ref: TargetRef | None = None

    @property
    def ready(self) -> bool:
        """An unset condition means ready, by the definition of EndpointSlice."""
        return self.conditions.ready is not False


class EndpointPort(Struct, frozen=True):
    name: str = ""
    port: int = 0
    protocol: str = "TCP"


class EndpointSlice(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.ENDPOINT_SLICE
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    @property
    def service_name(self) -> str:
        return self.metadata.labels.get("kubernetes.io/service-name", "")
