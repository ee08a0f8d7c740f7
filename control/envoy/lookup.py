"""Hosts that Envoy looks up in DNS itself: entries that say so, and hosts whose only address is one that the mesh made up for them.

A wildcard has no name to look up but that which a request is for: only names that it covers, at the entry's port, are; each when it is
first asked for. What is no HTTP asks for none, and is closed.
"""

from typing import Any, Final

from control.envoy.catalogue import CatalogService, Resolution
from control.envoy.filter_parts import Parts
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef, Layer
from control.envoy.parts import extension, socket_address
from control.envoy.place import Place
from control.envoy.world import World

_CLUSTER: Final = "envoy.config.cluster.v3.Cluster"
_FORWARD_PROXY: Final = "envoy.filters.http.dynamic_forward_proxy"
# The filter looks up, the cluster connects: the same cache in both, which Envoy knows by its name.
_CACHE: Final[dict[str, Any]] = {
    "name": "wildcards",
    "dns_lookup_family": "V4_PREFERRED",
    "dns_refresh_rate": {"seconds": 60},
    "host_ttl": {"seconds": 300},
    "max_hosts": {"value": 1024},
}


def look_up(cluster: Message, service: CatalogService, endpoints: Message) -> None:
    """Has Envoy ask DNS for these endpoints: for all addresses of each name, or for one of a single name with each connection."""
    names = [one for place in endpoints.endpoints for one in place.lb_endpoints]
    single = service.resolution is not Resolution.DNS and len(names) == 1
    fields: dict[str, Any] = {
        "type": "LOGICAL_DNS" if single else "STRICT_DNS",
        "load_assignment": endpoints,
        "dns_lookup_family": "V4_PREFERRED",
        "dns_refresh_rate": {"seconds": 60},
        "respect_dns_ttl": True,
    }
    cluster.ClearField("eds_cluster_config")
    cluster.MergeFrom(new(_CLUSTER, **fields))


def look_up_itself(cluster: Message, service: CatalogService, ref: ClusterRef) -> None:
    """For a host without an address of its own, which its clients did not dial either."""
    for field in ("type", "lb_policy", "cleanup_interval"):
        cluster.ClearField(field)
    if not service.wildcard:
        endpoint = {"endpoint": {"address": socket_address(service.hostname, ref.port)}}
        assignment = new("envoy.config.endpoint.v3.ClusterLoadAssignment", cluster_name=ref.name, endpoints=[{"lb_endpoints": [endpoint]}])
        look_up(cluster, service, assignment)
    elif ref.layer is Layer.HTTP:
        kind = extension("envoy.clusters.dynamic_forward_proxy", "clusters.dynamic_forward_proxy.v3.ClusterConfig", dns_cache_config=_CACHE)
        cluster.MergeFrom(new(_CLUSTER, cluster_type=kind, lb_policy="CLUSTER_PROVIDED"))
    else:
        cluster.MergeFrom(new(_CLUSTER, type="STATIC", load_assignment={"cluster_name": ref.name}))


def domains(service: CatalogService, port: int) -> list[str]:
    """The hosts that requests to a service may be for: any, since its address was dialled, unless they decide where it goes."""
    return [service.hostname, f"{service.hostname}:{port}"] if service.unplaced and service.wildcard else ["*"]


def lookup_parts(world: World, place: Place) -> Parts:
    """The filter that looks up what a request is for, ahead of the router."""
    service = world.service(place.service) if place.service is not None else None
    if service is None or not (service.unplaced and service.wildcard):
        return Parts()
    config = extension(_FORWARD_PROXY, "filters.http.dynamic_forward_proxy.v3.FilterConfig", dns_cache_config=_CACHE)
    message = new("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", **config)
    return Parts((message,), (service.owner,))
