"""Policies and services that concern nothing, names that say too little, annotations that nobody reads."""

from collections.abc import Iterator
from typing import Final

from control.analysis.message import Level, Message, about
from control.envoy.proxies import ProxyKind, all_proxies, find_proxy
from control.envoy.world import World
from control.kinds import AuthorizationPolicy, ObjectKey, PeerAuthentication, RequestAuthentication, Service
from control.model.labels import selects
from control.model.mesh import Mesh
from control.model.status import bound

_PROTOCOLS: Final = frozenset(
    {"http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "udp", "mongo", "mysql", "redis", "kubernetes.io/h2c", "kubernetes.io/ws"}
)
_READ_ANNOTATIONS: Final = frozenset(
    {
        "ambient.istio.io/bypass-inbound-capture",
        "ambient.istio.io/dns-capture",
        "ambient.istio.io/redirection",
        "networking.istio.io/enable-autoallocate-ip",
        "networking.istio.io/exportTo",
        "networking.istio.io/traffic-distribution",
        "traffic.sidecar.istio.io/excludeInboundPorts",
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        "traffic.sidecar.istio.io/excludeOutboundPorts",
        "traffic.sidecar.istio.io/includeInboundPorts",
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
        "traffic.sidecar.istio.io/includeOutboundPorts",
        "traffic.sidecar.istio.io/kubevirtInterfaces",
    }
)
_CORRECT: Final = "correct the selector, or the workloads' labels"


def unmatched(mesh: Mesh) -> Iterator[Message]:
    """Policies with a selector that selects no workload, and services that select none."""
    for key, record in mesh.records.items():
        item = record.object
        if isinstance(item, AuthorizationPolicy | PeerAuthentication) and item.selector and bound(mesh, item) == 0:
            yield _warn(key, "IST0127", f"selects no workload: {_labels(item.selector)}", _CORRECT)
        elif isinstance(item, Service) and not item.external and item.spec.selector and bound(mesh, item) == 0:
            yield _warn(key, "NM0005", f"selects no workload: {_labels(item.spec.selector)}", _CORRECT)


def unmatched_tokens(world: World) -> Iterator[Message]:
    """RequestAuthentications with a selector: only gateways verify tokens for what is selected."""
    proxies = [found for key in world.ask(all_proxies) if (found := world.ask(find_proxy, key)) is not None]
    for policy in world.objects(RequestAuthentication):
        if policy.spec.selector is None or policy.targets:
            continue
        labels, namespaces = policy.spec.selector.match_labels, {policy.metadata.namespace}
        everywhere = policy.metadata.namespace == world.settings.root_namespace
        homes = [one for one in proxies if one.kind is ProxyKind.GATEWAY and (everywhere or one.namespace in namespaces)]
        if not any(selects(labels, one.labels) for one in homes):
            hint = "name a service or a Gateway by targetRefs, or correct the selector"
            yield _warn(policy.key, "IST0127", f"selects no gateway, and only they verify tokens by a selector: {_labels(labels)}", hint)


def unnamed_ports(mesh: Mesh) -> Iterator[Message]:
    """Ports of services whose protocol has to be told from the first bytes."""
    for key, record in mesh.records.items():
        if not isinstance(record.object, Service):
            continue
        for port in record.object.spec.ports:
            stated = port.app_protocol.lower() or port.name.partition("-")[0]
            if port.protocol == "TCP" and stated not in _PROTOCOLS and port.name not in _PROTOCOLS:
                what = f"port {port.port} ({port.name or 'without a name'}) does not say its protocol"
                yield about(key, "IST0118", Level.INFO, what, "name it like http-api or tcp-db, or set appProtocol")


def unread_annotations(mesh: Mesh) -> Iterator[Message]:
    """Annotations that look like the mesh's and are read by nobody: often a slip of the pen."""
    for key, record in mesh.records.items():
        if record.object is None:
            continue
        for name in record.object.metadata.annotations:
            if name.partition("/")[0].endswith("istio.io") and name not in _READ_ANNOTATIONS and not _is_another_s(name):
                yield about(key, "IST0108", Level.INFO, f"nobody reads the annotation {name}", "is it misspelt?")


def _is_another_s(name: str) -> bool:
    """What sidecars read, and what controllers note for themselves."""
    return name.startswith(("sidecar.istio.io/", "proxy.istio.io/", "prometheus.istio.io/", "istio.io/"))


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _warn(key: ObjectKey, code: str, what: str, hint: str) -> Message:
    return about(key, code, Level.WARNING, what, hint)
