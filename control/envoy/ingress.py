"""The way of a gateway to services whose waypoint it is to go through: a tunnel to the waypoint, which is asked for the service's address.

What holds for the service (routes, subsets, DestinationRules, policies) holds at the waypoint, and not at the gateway again.
"""

from control.envoy.catalogue import CatalogService
from control.envoy.messages import Message, new
from control.envoy.naming import ORIGINATE, ClusterRef
from control.envoy.parts import DESTINATION, IDENTITY, TUNNEL, TUNNEL_MATCH, VIA, host_port, internal_address
from control.envoy.proxies import ProxyKey, ProxyKind, find_proxy
from control.envoy.reports import struct
from control.envoy.world import World, waypoint_name
from control.kinds import Gateway
from control.model.waypoints import Waypoint
from meshapi.workload import ServiceKey


def waypoint_between(world: World, proxy: ProxyKey, key: ServiceKey) -> Waypoint | None:
    """The waypoint that a proxy goes through to a service; None where it calls the endpoints itself.

    Waypoints do, and so does a gateway where nothing asks for the waypoint, or the service has no address that it could be asked for.
    """
    found, service = world.ask(find_proxy, proxy), world.service(key)
    if found is None or found.kind is not ProxyKind.GATEWAY or service is None:
        return None
    if not service.ingress_use_waypoint or service.waypoint is None or not service.addresses:
        return None
    return world.ask(_waypoints).get(waypoint_name(service.waypoint))


def waypoint_assignment(world: World, waypoint: Waypoint, service: CatalogService, ref: ClusterRef) -> Message:
    """The waypoint's own endpoints, each asked for an address of the service."""
    # Of whom it is not known who they must be, nobody is called.
    places = _places(world, waypoint) if waypoint.principals else ()
    endpoints = [_endpoint(waypoint, place, host_port(str(service.addresses[0]), ref.port)) for place in places]
    groups = [{"lb_endpoints": endpoints}] if endpoints else []
    return new("envoy.config.endpoint.v3.ClusterLoadAssignment", cluster_name=ref.name, endpoints=groups)


def _waypoints(world: World) -> dict[str, Waypoint]:
    """By where they are."""
    found = (world.waypoint(gateway.key) for gateway in world.objects(Gateway))
    return {waypoint_name(one.address): one for one in found if one is not None and one.address is not None}


def _places(world: World, waypoint: Waypoint) -> tuple[str, ...]:
    address = waypoint.address
    if address is None:
        return ()
    if address.service is None:
        return (host_port(str(address.address.address), address.hbone_port),) if address.address is not None else ()
    port = address.hbone_port
    found = (one for one in world.endpoints(address.service) if one.healthy and not one.by_name and port in one.targets)
    return tuple(host_port(one.address, one.targets[port] or port) for one in found)


def _endpoint(waypoint: Waypoint, place: str, asked: str) -> Message:
    expected = ",".join(f"spiffe://{principal}" for principal in waypoint.principals)
    known = {TUNNEL_MATCH: TUNNEL, DESTINATION: {"local": asked, VIA: place}, IDENTITY: {"identity": expected}}
    return new(
        "envoy.config.endpoint.v3.LbEndpoint",
        endpoint={"address": internal_address(ORIGINATE, f"{asked} by {place}")},
        metadata={"filter_metadata": {key: struct(value) for key, value in known.items()}},
        load_balancing_weight={"value": 1},
    )
