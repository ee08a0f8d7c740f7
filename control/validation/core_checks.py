"""Checks of Kubernetes' own kinds beyond their types."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from control.kinds import EndpointSlice, Meta, Namespace, Node, Pod, Service
from control.kinds.core import Container
from control.validation import values
from control.validation.finding import Remark, warning

T = TypeVar("T")
Path = tuple[str | int, ...]


def attempt(check: Callable[[T], object], value: T, path: Path, hint: str = "") -> Iterator[Remark]:
    """A remark if the value can't be parsed."""
    try:
        check(value)
    except ValueError as error:
        yield Remark(path, str(error), hint)


def attempt_port(number: int, path: Path) -> Iterator[Remark]:
    """A remark if the number is no port."""
    try:
        values.port_number(number)
    except ValueError as error:
        yield Remark(path, str(error))


def metadata_remarks(meta: Meta) -> Iterator[Remark]:
    """Labels and timestamps, of any kind."""
    yield from label_remarks(meta.labels, ("metadata", "labels"))
    if meta.creation_timestamp:
        yield from attempt(values.timestamp, meta.creation_timestamp, ("metadata", "creationTimestamp"))


def label_remarks(labels: dict[str, str], path: Path) -> Iterator[Remark]:
    """Labels, also those of a selector."""
    for key, value in labels.items():
        yield from attempt(values.label_key, key, (*path, key))
        yield from attempt(values.label_value, value, (*path, key))


def namespace_remarks(namespace: Namespace) -> Iterator[Remark]:
    yield from attempt(values.label_name, namespace.metadata.name, ("metadata", "name"))


def node_remarks(node: Node) -> Iterator[Remark]:
    # The name becomes part of the SPIFFE id of the node's agent.
    yield from attempt(values.segment, node.metadata.name, ("metadata", "name"))
    for index, entry in enumerate(node.status.addresses):
        if entry.type in {"InternalIP", "ExternalIP"}:
            yield from attempt(values.address, entry.address, ("status", "addresses", index))


def pod_remarks(pod: Pod) -> Iterator[Remark]:
    yield from attempt(values.object_name, pod.spec.service_account_name, ("spec", "serviceAccountName"))
    for group, containers in (("containers", pod.spec.containers), ("initContainers", pod.spec.init_containers)):
        yield from _container_remarks(containers, ("spec", group))
    for index, text in enumerate(pod.addresses):
        yield from attempt(values.serving_address, text, ("status", "podIPs", index))
    if pod.live and not pod.addresses:
        yield warning(
            ("status",), "the pod has no address and is not served", "a manifest needs status.podIPs; the Kubernetes API fills it in"
        )
    elif pod.live and pod.ready is None:
        hint = "add a condition of type Ready, or name the pod in an EndpointSlice"
        yield warning(("status",), "nothing says that the pod is ready: it counts as unhealthy", hint)
    if pod.spec.node_name:
        yield from attempt(values.segment, pod.spec.node_name, ("spec", "nodeName"))
    else:
        yield warning(("spec",), "the pod is on no node: nobody can obtain its identity", "set spec.nodeName")


def _container_remarks(containers: tuple[Container, ...], path: Path) -> Iterator[Remark]:
    for index, container in enumerate(containers):
        for number, port in enumerate(container.ports):
            yield from attempt_port(port.container_port, (*path, index, "ports", number))


def service_remarks(service: Service) -> Iterator[Remark]:
    yield from attempt(values.label_name, service.metadata.name, ("metadata", "name"))
    if service.external:
        yield warning(("spec", "type"), "of an ExternalName service the mesh knows the name, and carries nothing", "use a ServiceEntry")
        return
    for index, text in enumerate(service.addresses):
        path: Path = ("spec", "clusterIPs", index) if service.spec.cluster_ips else ("spec", "clusterIP")
        yield from attempt(values.serving_address, text, path)
    yield from label_remarks(service.spec.selector, ("spec", "selector"))
    yield from _service_port_remarks(service)
    yield from _service_policy_remarks(service)


def _service_port_remarks(service: Service) -> Iterator[Remark]:
    seen: set[int] = set()
    for index, port in enumerate(service.spec.ports):
        path: Path = ("spec", "ports", index)
        yield from attempt_port(port.port, path)
        if isinstance(port.target_port, int):
            yield from attempt_port(port.target_port, path)
        if port.protocol != "TCP":
            yield warning(path, f"port {port.port} is {port.protocol}: the mesh carries TCP, this port stays outside")
        elif port.port in seen:
            yield Remark(path, f"port {port.port} stands here twice")
        else:
            seen.add(port.port)


def _service_policy_remarks(service: Service) -> Iterator[Remark]:
    spec = service.spec
    if spec.internal_traffic_policy not in {"Cluster", "Local"}:
        yield Remark(("spec", "internalTrafficPolicy"), f"{spec.internal_traffic_policy[:40]!r} is neither Cluster nor Local")
    if spec.traffic_distribution not in {"", "PreferClose", "PreferSameZone", "PreferSameNode"}:
        hint = "PreferClose, PreferSameZone or PreferSameNode"
        yield Remark(("spec", "trafficDistribution"), f"unknown distribution {spec.traffic_distribution[:40]!r}", hint)
    for index, family in enumerate(spec.ip_families):
        if family not in {"IPv4", "IPv6"}:
            yield Remark(("spec", "ipFamilies", index), f"{family[:40]!r} is neither IPv4 nor IPv6")


def slice_remarks(endpoints: EndpointSlice) -> Iterator[Remark]:
    if endpoints.address_type not in {"IPv4", "IPv6", "FQDN"}:
        yield Remark(("addressType",), f"{endpoints.address_type[:40]!r} is none of IPv4, IPv6 and FQDN")
        return
    if endpoints.address_type == "FQDN":
        yield warning(("addressType",), "endpoints by name are not served", "use a ServiceEntry")
        return
    if not endpoints.service_name:
        yield warning(("metadata",), "belongs to no service", "set the label kubernetes.io/service-name")
    for index, endpoint in enumerate(endpoints.endpoints):
        for text in endpoint.addresses:
            yield from attempt(values.serving_address, text, ("endpoints", index))
    for index, port in enumerate(endpoints.ports):
        if port.port:
            yield from attempt_port(port.port, ("ports", index))
