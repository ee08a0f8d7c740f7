"""Load assignments: the endpoints of a cluster by locality. An endpoint that changes changes these, and nothing else."""

from typing import Any

from control.envoy.built import Built, built
from control.envoy.catalogue import CatalogService, Endpoint
from control.envoy.clusters import TUNNEL, TUNNEL_MATCH
from control.envoy.messages import Message, new
from control.envoy.naming import ORIGINATE, ClusterRef
from control.envoy.parts import DESTINATION, IDENTITY, host_port, internal_address, socket_address
from control.envoy.proxies import ProxyKey
from control.envoy.world import World
from meshapi.workload import Locality


def load_assignment(world: World, _proxy: ProxyKey, ref: ClusterRef) -> Built | None:
    """The ClusterLoadAssignment of a cluster."""
    service = world.service(ref.service)
    if service is None:
        return None
    by_locality: dict[Locality, list[Message]] = {}
    for endpoint in chosen_endpoints(world, service, ref):
        target = endpoint.targets.get(ref.port) or ref.port
        by_locality.setdefault(endpoint.locality, []).append(lb_endpoint(endpoint, target))
    localities = [
        {
            "locality": {"region": one.region, "zone": one.zone, "sub_zone": one.subzone},
            "lb_endpoints": found,
            "load_balancing_weight": {"value": sum(int(endpoint.load_balancing_weight.value) for endpoint in found)},
        }
        for one, found in sorted(by_locality.items(), key=lambda entry: (entry[0].region, entry[0].zone, entry[0].subzone))
    ]
    message = new("envoy.config.endpoint.v3.ClusterLoadAssignment", cluster_name=ref.name, endpoints=localities)
    return built(ref.name, message, (service.owner,))


def chosen_endpoints(world: World, service: CatalogService, ref: ClusterRef) -> tuple[Endpoint, ...]:
    """Those that may be called: with this port, reachable by address, and healthy or not asked for their health."""
    return tuple(
        one
        for one in world.endpoints(service.key)
        if ref.port in one.targets and not one.by_name and (one.healthy or service.takes_unhealthy)
    )


def lb_endpoint(endpoint: Endpoint, port: int) -> Message:
    """One endpoint: through the tunnel listener, with where it is and who it must be, or its plain address."""
    weight = {"value": max(1, endpoint.weight)}
    if endpoint.identity is None:
        address: dict[str, Any] = socket_address(endpoint.address, port)
        return new("envoy.config.endpoint.v3.LbEndpoint", endpoint={"address": address}, load_balancing_weight=weight)
    where = host_port(endpoint.address, port)
    known = {TUNNEL_MATCH: TUNNEL, DESTINATION: {"local": where}, IDENTITY: {"identity": str(endpoint.identity)}}
    return new(
        "envoy.config.endpoint.v3.LbEndpoint",
        # Two workloads that have one address after another are two endpoints.
        endpoint={"address": internal_address(ORIGINATE, f"{where} {endpoint.identity.principal}")},
        metadata={"filter_metadata": {key: struct(value) for key, value in known.items()}},
        load_balancing_weight=weight,
    )


def struct(values: dict[str, str]) -> Message:
    return new("google.protobuf.Struct", fields={key: {"string_value": value} for key, value in values.items()})
