"""Load assignments: the endpoints of a cluster by locality. An endpoint that changes changes these, and nothing else."""

from typing import Any

from msgspec import Struct

from control.envoy.built import Built, built
from control.envoy.catalogue import CatalogService, Endpoint
from control.envoy.destinations.localities import closed_up, proxy_locality, ranking
from control.envoy.destinations.rules import policy, subset_choice
from control.envoy.ingress import waypoint_assignment, waypoint_between
from control.envoy.messages import Message, new
from control.envoy.naming import ORIGINATE, ClusterRef
from control.envoy.parts import DESTINATION, IDENTITY, TUNNEL, TUNNEL_MATCH, host_port, internal_address, socket_address
from control.envoy.proxies import ProxyKey
from control.envoy.reports import WORKLOAD, struct, workload_metadata
from control.envoy.world import World


class Group(Struct, frozen=True, order=True):
    """Endpoints that are of one rank and in one place."""

    priority: int
    region: str
    zone: str
    subzone: str


def load_assignment(world: World, proxy: ProxyKey, ref: ClusterRef) -> Built | None:
    """The ClusterLoadAssignment of a cluster."""
    service = world.service(ref.service)
    if service is None:
        return None
    between = world.ask(waypoint_between, proxy, ref.service)
    if between is not None:
        return built(ref.name, waypoint_assignment(world, between, service, ref), (service.owner, between.key))
    rules = world.ask(policy, proxy, ref)
    message = assignment(world, proxy, ref, service)
    return built(ref.name, message, (service.owner, *rules.sources))


def assignment(world: World, proxy: ProxyKey, ref: ClusterRef, service: CatalogService) -> Message:
    """The endpoints of a cluster, by rank and locality."""
    ranks = ranking(world.ask(policy, proxy, ref), service.load_balancing, world.ask(proxy_locality, proxy))
    groups: dict[Group, list[Message]] = {}
    shares: dict[Group, int | None] = {}
    for endpoint in chosen_endpoints(world, proxy, service, ref):
        place = endpoint.locality
        group = Group(ranks.priority(endpoint) if ranks else 0, place.region, place.zone, place.subzone)
        shares[group] = ranks.share(place) if ranks else None
        target = endpoint.targets.get(ref.port) or ref.port
        groups.setdefault(group, []).append(lb_endpoint(endpoint, target))
    shown = {group: found for group, found in sorted(groups.items()) if shares[group] != 0}
    levels = closed_up(group.priority for group in shown)
    localities = [
        {
            "locality": {"region": group.region, "zone": group.zone, "sub_zone": group.subzone},
            "priority": levels[group.priority],
            "lb_endpoints": found,
            "load_balancing_weight": {"value": shares[group] or sum(int(one.load_balancing_weight.value) for one in found)},
        }
        for group, found in shown.items()
    ]
    return new("envoy.config.endpoint.v3.ClusterLoadAssignment", cluster_name=ref.name, endpoints=localities)


def chosen_endpoints(world: World, proxy: ProxyKey, service: CatalogService, ref: ClusterRef) -> tuple[Endpoint, ...]:
    """Those that may be called: of this subset, with this port, and healthy or not asked for their health.

    Host names only where the service says that DNS tells its endpoints.
    """
    choice = world.ask(subset_choice, proxy, ref)
    if choice is None:
        return ()
    return tuple(
        one
        for one in world.endpoints(service.key)
        if ref.port in one.targets
        and (service.by_dns or not one.by_name)
        and (one.healthy or service.takes_unhealthy)
        and all(one.labels.get(name) == value for name, value in choice.labels)
    )


def lb_endpoint(endpoint: Endpoint, port: int) -> Message:
    """One endpoint: through the tunnel listener, with where it is and who it must be, or its plain address."""
    weight = {"value": max(1, endpoint.weight)}
    told = {WORKLOAD: struct(workload_metadata(endpoint))}
    if endpoint.identity is None:
        address: dict[str, Any] = socket_address(endpoint.address, port)
        metadata = {"filter_metadata": told}
        return new("envoy.config.endpoint.v3.LbEndpoint", endpoint={"address": address}, metadata=metadata, load_balancing_weight=weight)
    where = host_port(endpoint.address, port)
    known = {TUNNEL_MATCH: TUNNEL, DESTINATION: {"local": where}, IDENTITY: {"identity": str(endpoint.identity)}}
    return new(
        "envoy.config.endpoint.v3.LbEndpoint",
        # Two workloads that have one address after another are two endpoints.
        endpoint={"address": internal_address(ORIGINATE, f"{where} {endpoint.identity.principal}")},
        metadata={"filter_metadata": {key: struct(value) for key, value in known.items()} | told},
        load_balancing_weight=weight,
    )
