"""Where does a new connection of this workload go? The pure function that answers, from a view of the snapshot alone.

What the mesh knows is never bypassed: a destination of the mesh that can't be reached as it asks to be is refused, in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meshapi import wire
from meshapi.workload import (
    BalancingMode,
    IPAddress,
    Service,
    TunnelProtocol,
    Visibility,
    WeightedWaypoint,
    Workload,
    WorkloadUID,
)
from nodeagent.policy.addresses import plain, socket_address
from nodeagent.resolve.answer import NO_HEALTHY_UPSTREAM, Unknown, expected, refuse
from nodeagent.resolve.endpoints import Candidate, candidates
from nodeagent.resolve.holders import as_held
from nodeagent.resolve.waypoints import Dialled, through_waypoint
from nodeagent.snapshot.view import Missing, View, address_dependency
from nodeagent.telemetry.labels import Reporter, flow_attributes
from nodeagent.ztunnel.protocol import Endpoint, Forward, Pass, Route, Tunnel


@dataclass(frozen=True, slots=True)
class RouteQuestion:
    """A new connection of a local workload, and where it was meant to go."""

    workload: WorkloadUID
    destination: IPAddress
    port: int


def resolve(view: View, question: RouteQuestion) -> Route | Unknown:
    """Answers a route question; Unknown where the snapshot does not hold what the answer depends on."""
    source = view.workload(question.workload)
    if source is Missing.UNKNOWN:
        return Unknown((question.workload,), f"workload {question.workload}")
    if isinstance(source, Missing):
        return refuse(f"workload {question.workload} is not in the mesh's configuration")
    here = view.local_identity(question.workload)
    if here is not None and here != str(source.identity):
        return refuse(f"this node runs {question.workload} as {here}, the controller says {source.identity}", source=source)
    destination = plain(question.destination)
    if destination.is_loopback or destination.is_unspecified or destination.is_multicast:
        return refuse(f"{destination} is no address to forward to", source=source)
    found = view.address(source.network, destination)
    if found is Missing.UNKNOWN:
        return Unknown((f"{source.network}/{destination}",), f"whose address {destination} is")
    if found is Missing.UNREADABLE:
        return refuse(f"what has the address {destination} could not be understood", source=source)
    if isinstance(found, Missing):
        return Pass(flow_attributes(Reporter.SOURCE, source=source, source_principal=str(source.identity)))
    if isinstance(found, Workload):
        return _to_workload(view, source, found, destination, question.port)
    return _to_service(view, source, found, destination, question.port)


def _to_workload(view: View, source: Workload, target: Workload, address: IPAddress, port: int) -> Route | Unknown:
    """A workload's own address was dialled: a pod address, or an endpoint of a headless service."""
    if port in wire.PROXY_PORTS and target.tunnel_protocol is TunnelProtocol.HBONE:
        return refuse(f"port {port} of {target.uid} is the proxy's own", source=source)
    if target.waypoint is not None:
        way = through_waypoint(view, source, (WeightedWaypoint(target.waypoint),), Dialled(target.uid, address, port))
        if way is not None:
            return way
    if target.tunnel_protocol is TunnelProtocol.LEGACY_ISTIO_MTLS:
        return refuse(f"{target.uid} is reached by sidecar mTLS only, which is not supported", source=source)
    return Forward((_endpoint(source, str(source.identity), Candidate(target, address, port, tier=0), None),))


def _to_service(view: View, source: Workload, found: Sequence[Service], address: IPAddress, port: int) -> Route | Unknown:
    service = _visible(source, found)
    if service is None:
        return refuse(f"{found[0].key} can be seen in its own namespace only", source=source)
    keeps_address = service.load_balancing is not None and service.load_balancing.mode is BalancingMode.PASSTHROUGH
    if not keeps_address and all(entry.service != port for entry in service.ports):
        return refuse(f"{service.key} has no port {port}", source=source, service=service)
    way = through_waypoint(view, source, service.waypoints, Dialled(service.key, address, port, service)) if service.waypoints else None
    if way is not None:
        return way
    return _to_original(view, source, service, address, port) if keeps_address else _to_member(view, source, service, address, port)


def _to_member(view: View, source: Workload, service: Service, address: IPAddress, port: int) -> Route | Unknown:
    """One of the service's endpoints; a waypoint of their own is for those who dial them."""
    chosen = candidates(source, service, view.members(service.key), port=port, like=address)
    held = as_held(view, source.network, chosen.usable)
    if held.unknown:
        return Unknown(held.unknown, f"whose addresses the endpoints of {service.key} have")
    usable = [
        candidate
        for candidate in held.candidates
        if candidate.port not in wire.PROXY_PORTS or candidate.workload.tunnel_protocol is not TunnelProtocol.HBONE
    ]
    if not usable:
        reason = f"no usable endpoint of {service.key}: {chosen.why_none()}"
        return refuse(reason, flag=NO_HEALTHY_UPSTREAM, source=source, service=service)
    identity = str(source.identity)
    return Forward(tuple([_endpoint(source, identity, candidate, service) for candidate in usable]))


def _to_original(view: View, source: Workload, service: Service, address: IPAddress, port: int) -> Route | Unknown:
    """A service that asks for no balancing: to the address that was dialled, in the mesh's way if it is a workload's."""
    target = view.workload_at(source.network, address)
    if isinstance(target, Workload):
        return _to_workload(view, source, target, address, port)
    if target is Missing.UNKNOWN:
        return Unknown((address_dependency(source.network, address),), f"whose address {address} is")
    if target is Missing.UNREADABLE:
        return refuse(f"what has the address {address} could not be understood", source=source, service=service)
    return Pass(flow_attributes(Reporter.SOURCE, source=source, service=service, source_principal=str(source.identity)))


def _visible(source: Workload, found: Sequence[Service]) -> Service | None:
    """Of services that share an address: the platform's own first, then by name."""
    visible = [service for service in found if service.visibility is Visibility.PUBLIC or service.namespace == source.namespace]
    return min(visible, key=lambda service: (service.namespace != source.namespace, not service.canonical, service.key), default=None)


def _endpoint(source: Workload, identity: str, candidate: Candidate, service: Service | None) -> Endpoint:
    """`identity` is the source's."""
    target = candidate.workload
    direct = socket_address(candidate.address, candidate.port)
    hbone = target.tunnel_protocol is TunnelProtocol.HBONE
    return Endpoint(
        uid=target.uid,
        address=socket_address(candidate.address, wire.HBONE_PORT) if hbone else direct,
        attributes=flow_attributes(
            Reporter.SOURCE,
            source=source,
            destination=target,
            service=service,
            source_principal=identity,
            destination_principal=str(target.identity) if hbone else None,
            mutual_tls=hbone,
        ),
        tunnel=Tunnel(identity, authority=direct, expect=expected(target, service)) if hbone else None,
        tier=candidate.tier,
        weight=target.capacity,
    )
