"""Clusters: how a proxy reaches the endpoints of a service's port, through tunnels where the endpoint takes them."""

from collections.abc import Callable
from typing import Any, Final

from control.envoy.built import Built, built
from control.envoy.catalogue import CatalogService, Resolution
from control.envoy.destinations.shaping import shape_by_rules
from control.envoy.endpoints import assignment
from control.envoy.ingress import waypoint_between
from control.envoy.lookup import look_up, look_up_itself
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef, Layer
from control.envoy.parts import DESTINATION, IDENTITY, TUNNEL, ads, http_options, internal_upstream, raw_buffer
from control.envoy.patches.clusters import patch_cluster
from control.envoy.proxies import ProxyKey
from control.envoy.reports import service_metadata
from control.envoy.world import World
from control.kinds import ObjectKey
from meshapi.workload import AppProtocol

Shaper = Callable[[World, ProxyKey, ClusterRef, Message], tuple[ObjectKey, ...]]
"""Changes a cluster that was just made; returns the objects that it follows."""
SHAPERS: Final[tuple[Shaper, ...]] = (shape_by_rules,)
"""Who has a say in clusters, in this order."""
CONNECT_TIMEOUT_S: Final = 10
_CLUSTER: Final = "envoy.config.cluster.v3.Cluster"


def service_cluster(world: World, proxy: ProxyKey, ref: ClusterRef) -> Built | None:
    """The Cluster of a service's port; its endpoints come apart from it, unless DNS is to tell them."""
    service = world.service(ref.service)
    if service is None or service.port(ref.port) is None:
        return None
    between = world.ask(waypoint_between, proxy, ref.service)
    if between is not None:
        return built(ref.name, new(_CLUSTER, **_base(service, ref), **_told(ref)), (service.owner, between.key))
    message = new(_CLUSTER, **_base(service, ref), **(_dialled() if service.resolution is Resolution.NONE else _told(ref)))
    if service.by_dns:
        look_up(message, service, assignment(world, proxy, ref, service))
    elif service.unplaced:
        look_up_itself(message, service, ref)
    sources = tuple(source for shape in SHAPERS for source in shape(world, proxy, ref, message))
    patched = patch_cluster(world, proxy, ref, message)
    return built(ref.name, message, (service.owner, *sources, *patched.sources), patched.problems) if patched.there else None


def _base(service: CatalogService, ref: ClusterRef) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": ref.name,
        "connect_timeout": {"seconds": CONNECT_TIMEOUT_S},
        # Who is not ready is not among the endpoints: half of them is no reason to call the others.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "transport_socket_matches": transports(),
        "metadata": service_metadata(service),
    }
    if ref.layer is Layer.HTTP:
        fields["typed_extension_protocol_options"] = _http(service, ref)
    return fields


def _told(ref: ClusterRef) -> dict[str, Any]:
    """Endpoints come apart from the cluster."""
    return {"type": "EDS", "lb_policy": "LEAST_REQUEST", "eds_cluster_config": {"eds_config": ads(), "service_name": ref.name}}


def _dialled() -> dict[str, Any]:
    """The endpoint is what the client dialled."""
    return {"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "cleanup_interval": {"seconds": 60}}


def transports() -> list[dict[str, Any]]:
    """Through a tunnel, told where and to whom, or in plaintext: by what is known of the endpoint."""
    return [
        {"name": "tunnel", "match": TUNNEL, "transport_socket": internal_upstream(DESTINATION, IDENTITY)},
        {"name": "plaintext", "match": {}, "transport_socket": raw_buffer()},
    ]


def _http(service: CatalogService, ref: ClusterRef) -> dict[str, Any]:
    # Of a wildcard only the request says which host it is: that is whom TLS must reach, where a rule asks for it.
    own_name = {"auto_sni": True, "auto_san_validation": True} if service.wildcard else None
    more = {"upstream_http_protocol_options": own_name} if own_name else {}
    port = service.port(ref.port)
    if port is not None and port.protocol in {AppProtocol.HTTP2, AppProtocol.GRPC}:
        return http_options(explicit_http_config={"http2_protocol_options": {}}, **more)
    # A port that does not say HTTP/2 gets what its client speaks.
    return http_options(use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}}, **more)
