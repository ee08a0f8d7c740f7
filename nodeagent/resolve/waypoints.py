"""The way through a waypoint: a tunnel to one of its workloads that asks for what was dialled, instead of one to an endpoint.

What is to go through a waypoint goes nowhere else: where there is no usable one, it is refused. Only the waypoint itself goes past it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meshapi.workload import (
    GatewayAddress,
    IPAddress,
    NetworkAddress,
    Service,
    WeightedWaypoint,
    Workload,
    WorkloadStatus,
)
from nodeagent.policy.addresses import parse_socket_address, plain, socket_address
from nodeagent.resolve.answer import NO_HEALTHY_UPSTREAM, Unknown, expected, refuse
from nodeagent.resolve.endpoints import Candidate, candidates, choose_address
from nodeagent.resolve.holders import as_held
from nodeagent.snapshot.view import Missing, View, address_dependency
from nodeagent.telemetry.labels import Reporter, flow_attributes
from nodeagent.ztunnel.protocol import Endpoint, Forward, Refuse, Tunnel

WEIGHT_SCALE = 1000
"""By which weights are made fine enough to be shared out among the workloads of several waypoints."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """What a connection was meant for: an address of `service`, or a workload's own. `name` says it in words."""

    name: str
    address: IPAddress
    port: int
    service: Service | None = None


@dataclass(frozen=True, slots=True)
class _Gate:
    """The workloads of one waypoint that take tunnels, and its service, if it is known by one."""

    candidates: tuple[Candidate, ...]
    service: Service | None = None


def through_waypoint(
    view: View, source: Workload, waypoints: Sequence[WeightedWaypoint], dialled: Dialled
) -> Forward | Refuse | Unknown | None:
    """The way to what was dialled through one of its waypoints; None if there is none to go through, for this source."""
    if any(_is_itself(view, source, waypoint.gateway) for waypoint in waypoints):
        return None
    found = [(waypoint, _gate(view, source, waypoint.gateway, dialled)) for waypoint in waypoints]
    for _, gate in found:
        if isinstance(gate, Unknown):
            return gate
    reasons = [gate for _, gate in found if isinstance(gate, str)]
    gates = [(gate, waypoint.weight) for waypoint, gate in found if isinstance(gate, _Gate) and waypoint.weight]
    if not gates:
        reason = "; ".join(reasons) or "its waypoints have no weight"
        return refuse(f"{dialled.name}: {reason}", flag=NO_HEALTHY_UPSTREAM, source=source, service=dialled.service)
    if len(gates) == 1:
        return Forward(tuple(_endpoint(source, gates[0][0], one, dialled, one.workload.capacity) for one in gates[0][0].candidates))
    return Forward(tuple(endpoint for gate, weight in gates for endpoint in _shared(source, gate, weight, dialled)))


def is_waypoint(endpoint: Endpoint) -> bool:
    """Whether this is the way to a waypoint: it is asked for another address than its own."""
    if endpoint.tunnel is None:
        return False
    return parse_socket_address(endpoint.address)[0] != parse_socket_address(endpoint.tunnel.authority)[0]


def _is_itself(view: View, source: Workload, gateway: GatewayAddress) -> bool:
    """Whether the source is one of the waypoint's own workloads: what it sends has been through the waypoint."""
    if gateway.service is not None:
        return gateway.service in source.services
    if gateway.address is None:
        return False
    found = _at(view, gateway.address)
    if isinstance(found, Workload):
        return found.uid == source.uid
    return isinstance(found, Service) and found.key in source.services


def _gate(view: View, source: Workload, gateway: GatewayAddress, dialled: Dialled) -> _Gate | Unknown | str:
    """Or why there is none, in words."""
    if gateway.service is not None:
        found: Service | Workload | Missing = view.find_service(gateway.service)
        key: str = gateway.service
    elif gateway.address is not None:
        found = _at(view, gateway.address)
        key = address_dependency(gateway.address.network, plain(gateway.address.address))
    else:
        return "its waypoint has no address"
    match found:
        case Missing.UNKNOWN:
            return Unknown((key,), f"the waypoint {gateway.text} of {dialled.name}")
        case Missing.UNREADABLE:
            return f"its waypoint {gateway.text} could not be understood"
        case Missing.ABSENT:
            return f"its waypoint {gateway.text} does not exist"
        case Workload():
            return _single(source, found, gateway, dialled)
        case Service():
            return _members(view, source, found, gateway.hbone_port, dialled)


def _at(view: View, address: NetworkAddress) -> Service | Workload | Missing:
    found = view.address(address.network, plain(address.address))
    return found[0] if isinstance(found, tuple) else found


def _single(source: Workload, found: Workload, gateway: GatewayAddress, dialled: Dialled) -> _Gate | str:
    address = choose_address(found.addresses, dialled.address) if gateway.address is None else plain(gateway.address.address)
    if found.network != source.network:
        return f"its waypoint {gateway.text} is in another network"
    if found.status is not WorkloadStatus.HEALTHY or address is None:
        return f"its waypoint {gateway.text} is not healthy"
    return _Gate((Candidate(found, address, gateway.hbone_port, tier=0),))


def _members(view: View, source: Workload, service: Service, port: int, dialled: Dialled) -> _Gate | Unknown | str:
    chosen = candidates(source, service, view.members(service.key), port=port, like=dialled.address)
    held = as_held(view, source.network, chosen.usable)
    if held.unknown:
        return Unknown(held.unknown, f"whose addresses the endpoints of {service.key} have")
    if not held.candidates:
        return f"no usable endpoint of its waypoint {service.key}: {chosen.why_none()}"
    return _Gate(held.candidates, service)


def _shared(source: Workload, gate: _Gate, weight: int, dialled: Dialled) -> list[Endpoint]:
    """The workloads of one of several waypoints, which together have its weight."""
    whole = sum(one.workload.capacity for one in gate.candidates)
    shares = [max(1, weight * WEIGHT_SCALE * one.workload.capacity // whole) for one in gate.candidates]
    return [_endpoint(source, gate, one, dialled, share) for one, share in zip(gate.candidates, shares, strict=True)]


def _endpoint(source: Workload, gate: _Gate, candidate: Candidate, dialled: Dialled, weight: int) -> Endpoint:
    """Always a tunnel: a waypoint takes it by itself, captured or not."""
    workload, identity = candidate.workload, str(source.identity)
    return Endpoint(
        uid=workload.uid,
        address=socket_address(candidate.address, candidate.port),
        attributes=flow_attributes(
            Reporter.SOURCE,
            source=source,
            destination=workload,
            service=dialled.service,
            source_principal=identity,
            destination_principal=str(workload.identity),
            mutual_tls=True,
        ),
        tunnel=Tunnel(identity, authority=socket_address(dialled.address, dialled.port), expect=expected(workload, gate.service)),
        tier=candidate.tier,
        weight=weight,
    )
