"""Pods, entries and endpoints as the mesh's workloads: pure functions of the object and its surroundings."""

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from control.kinds import EndpointSlice, Meta, Namespace, Node, Pod, ServiceEntry, WorkloadEntry
from control.kinds.networking import EntryWorkload
from control.kinds.security import MTLSMode
from control.model import vm
from control.model.labels import Labels
from control.model.peer_modes import PeerModes
from control.model.services import BoundService, entry_ports, pod_ports, slice_ports
from control.model.settings import MeshSettings
from control.validation import values
from meshapi import wire
from meshapi.workload import (
    GatewayAddress,
    IPAddress,
    Locality,
    NetworkMode,
    Port,
    ServiceKey,
    TunnelProtocol,
    Workload,
    WorkloadStatus,
    WorkloadType,
    WorkloadUID,
)

_CRON_JOB: Final = re.compile(r"(.+)-\d{8,10}\Z", re.ASCII)
_WORKLOAD_NAME_LABEL: Final = "service.istio.io/workload-name"
_TUNNEL_LABEL: Final = "networking.istio.io/tunnel"
_NAME_LABELS: Final = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_REVISION_LABELS: Final = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")


class Surroundings(Struct, frozen=True):
    """What a workload's resource depends on beside its own object.

    `policies` are the names of the AuthorizationPolicies that select it, and of guards; `slice_ready` is what EndpointSlices say of a pod,
    if any do.
    """

    peer: PeerModes = PeerModes(MTLSMode.PERMISSIVE)
    policies: tuple[str, ...] = ()
    services: tuple[BoundService, ...] = ()
    namespace: Namespace | None = None
    node: Node | None = None
    slice_ready: bool | None = None
    waypoint: GatewayAddress | None = None


def pod_workload(pod: Pod, around: Surroundings, settings: MeshSettings) -> Workload | None:
    """The workload of a pod; None while it has no address or when it has ended."""
    if not pod.live or not pod.addresses:
        return None
    meta = pod.metadata
    name, kind = owner(meta)
    ready = pod.ready if pod.ready is not None else bool(around.slice_ready)
    return Workload(
        uid=WorkloadUID(f"{settings.cluster}//Pod/{meta.namespace}/{meta.name}"),
        name=meta.name,
        namespace=meta.namespace,
        addresses=tuple(values.serving_address(text) for text in pod.addresses),
        network=settings.network,
        tunnel_protocol=_tunnel(enrolled(pod, around.namespace), around.peer),
        native_tunnel=_native(meta.labels) and not pod.spec.host_network,
        trust_domain=settings.trust_domain,
        service_account=pod.spec.service_account_name,
        waypoint=around.waypoint,
        node=pod.spec.node_name,
        canonical_name=_first(meta.labels, _NAME_LABELS) or name,
        canonical_revision=_first(meta.labels, _REVISION_LABELS) or "latest",
        workload_type=kind,
        workload_name=name,
        authorization_policies=around.policies + around.peer.policies,
        status=WorkloadStatus.HEALTHY if ready and not meta.deletion_timestamp else WorkloadStatus.UNHEALTHY,
        cluster=settings.cluster,
        services={key: pod_ports(pod, service) for service in around.services for key in service.keys},
        locality=node_locality(around.node),
        network_mode=NetworkMode.HOST_NETWORK if pod.spec.host_network else NetworkMode.STANDARD,
    )


def entry_workload(entry: WorkloadEntry, around: Surroundings, settings: MeshSettings) -> Workload:
    """The workload of a WorkloadEntry."""
    meta = entry.metadata
    uid = WorkloadUID(f"{settings.cluster}/networking.istio.io/WorkloadEntry/{meta.namespace}/{meta.name}")
    made = _endpoint(uid, meta, entry.labels, entry.spec, around, settings)
    made = replace(made, node=vm.node_of(entry), status=WorkloadStatus.HEALTHY if vm.healthy(entry) else WorkloadStatus.UNHEALTHY)
    if made.addresses:
        made = replace(made, addresses=made.addresses + _address(vm.other_address(entry))[0])
    if not vm.shares_address(entry):
        return made
    # Who calls the address gets the one that it belongs to, and a tunnel there leads to that one, under its name.
    return replace(made, network_mode=NetworkMode.HOST_NETWORK, tunnel_protocol=TunnelProtocol.NONE)


def inline_workloads(entry: ServiceEntry, around: Surroundings, settings: MeshSettings) -> tuple[Workload, ...]:
    """The workloads that a ServiceEntry brings itself: its endpoints, or its hosts where DNS is to tell."""
    meta = entry.metadata
    base = f"{settings.cluster}/networking.istio.io/ServiceEntry/{meta.namespace}/{meta.name}"
    if not entry.resolves_by_name:
        return tuple(
            _endpoint(WorkloadUID(f"{base}/{endpoint.address}"), meta, meta.labels, endpoint, around, settings)
            for endpoint in entry.spec.endpoints
        )
    keys = {key: service for service in around.services for key in service.keys}
    return tuple(
        _endpoint(
            WorkloadUID(f"{base}/{host}"),
            meta,
            meta.labels,
            EntryWorkload(address=host),
            # Each name is the endpoint of its own host only.
            Surroundings(around.peer, around.policies, (BoundService((key,), service.ports, of_entry=True),)),
            settings,
        )
        for key, service in keys.items()
        for host in [key.partition("/")[2]]
    )


def slice_workloads(endpoints: EndpointSlice, service: BoundService, settings: MeshSettings) -> tuple[Workload, ...]:
    """The endpoints of a slice that are no pods: opaque addresses outside of the mesh, of which nothing else is known."""
    meta = endpoints.metadata
    ports = slice_ports(endpoints, service)
    found: dict[str, Workload] = {}
    for endpoint in endpoints.endpoints if endpoints.address_type != "FQDN" else ():
        if not endpoint.addresses or (endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod"):
            continue
        first = endpoint.addresses[0]
        found.setdefault(
            first,
            Workload(
                uid=WorkloadUID(f"{settings.cluster}/discovery.k8s.io/EndpointSlice/{meta.namespace}/{meta.name}/{first}"),
                name=meta.name,
                namespace=meta.namespace,
                addresses=tuple(values.serving_address(text) for text in endpoint.addresses),
                network=settings.network,
                trust_domain=settings.trust_domain,
                status=WorkloadStatus.HEALTHY if endpoint.ready else WorkloadStatus.UNHEALTHY,
                cluster=settings.cluster,
                services=dict.fromkeys(service.keys, ports),
                # Such an address may belong to others too: it is never looked up as a workload of its own.
                network_mode=NetworkMode.HOST_NETWORK,
            ),
        )
    return tuple(found.values())


def enrolled(pod: Pod, namespace: Namespace | None) -> bool:
    """Whether a pod is in the mesh: its own label wins over its namespace's; some are never captured, as agents see it, too."""
    if pod.spec.host_network or any(annotation in pod.metadata.annotations for annotation in wire.ANNOTATIONS_APART):
        return False
    mode = pod.metadata.labels.get(wire.LABEL_DATAPLANE_MODE)
    if mode is None and namespace is not None:
        mode = namespace.metadata.labels.get(wire.LABEL_DATAPLANE_MODE)
    return mode == "ambient" or _native(pod.metadata.labels)


def owner(meta: Meta) -> tuple[str, WorkloadType]:
    """The name and type of what a pod belongs to: its Deployment, Job or CronJob where the owner's name tells."""
    controller = next((reference for reference in meta.owner_references if reference.controller), None)
    name, kind = (controller.name, WorkloadType.POD) if controller else (meta.name, WorkloadType.POD)
    template_hash = meta.labels.get("pod-template-hash")
    if controller and controller.kind == "ReplicaSet" and template_hash and name.endswith(f"-{template_hash}"):
        name, kind = name.removesuffix(f"-{template_hash}"), WorkloadType.DEPLOYMENT
    elif controller and controller.kind == "Job":
        scheduled = _CRON_JOB.match(name)
        name, kind = (scheduled.group(1), WorkloadType.CRONJOB) if scheduled else (name, WorkloadType.JOB)
    return meta.labels.get(_WORKLOAD_NAME_LABEL, name), kind


def node_locality(node: Node | None) -> Locality:
    """Where a node is, by the well-known labels."""
    labels = node.metadata.labels if node else {}
    return Locality(
        labels.get("topology.kubernetes.io/region", ""),
        labels.get("topology.kubernetes.io/zone", ""),
        labels.get("topology.istio.io/subzone", ""),
    )


def _endpoint(
    uid: WorkloadUID, meta: Meta, labels: Labels, endpoint: EntryWorkload, around: Surroundings, settings: MeshSettings
) -> Workload:
    address, hostname = _address(endpoint.address)
    services: dict[ServiceKey, tuple[Port, ...]] = {key: entry_ports(endpoint, one) for one in around.services for key in one.keys}
    name = labels.get(_WORKLOAD_NAME_LABEL, meta.name)
    joined = labels.get(wire.LABEL_DATAPLANE_MODE) == "ambient" or meta.annotations.get(wire.ANNOTATION_REDIRECTION) == "enabled"
    return Workload(
        uid=uid,
        name=meta.name,
        namespace=meta.namespace,
        addresses=address,
        hostname=hostname,
        network=endpoint.network or settings.network,
        tunnel_protocol=_tunnel(joined or _native(labels), around.peer),
        native_tunnel=_native(labels),
        trust_domain=settings.trust_domain,
        service_account=endpoint.service_account or wire.DEFAULT_SERVICE_ACCOUNT,
        waypoint=around.waypoint,
        canonical_name=_first(labels, _NAME_LABELS) or name,
        canonical_revision=_first(labels, _REVISION_LABELS) or "latest",
        workload_name=name,
        authorization_policies=around.policies + around.peer.policies,
        cluster=settings.cluster,
        services=services,
        locality=values.locality(endpoint.locality),
        capacity=endpoint.weight or 1,
    )


def _address(text: str) -> tuple[tuple[IPAddress, ...], str]:
    try:
        return (values.serving_address(text),), ""
    except ValueError:
        return (), text


def _tunnel(joined: bool, peer: PeerModes) -> TunnelProtocol:
    """With DISABLE, peers are to come in plaintext."""
    return TunnelProtocol.HBONE if joined and peer.mode is not MTLSMode.DISABLE else TunnelProtocol.NONE


def _native(labels: Labels) -> bool:
    """Whether the workload takes HBONE itself."""
    return "http" in labels.get(_TUNNEL_LABEL, "").split(",")


def _first(labels: Labels, names: tuple[str, ...]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
