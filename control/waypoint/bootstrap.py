"""What Envoy starts with: who it is, and the socket beside it from which all else comes."""

from typing import Any

from control.envoy.messages import Message, new
from control.envoy.parts import SDS_CLUSTER, extension, http_options
from control.validation.regex import ENVOY_MAX_PROGRAM
from control.waypoint.settings import Settings

ADS_CLUSTER = "xds-grpc"
MAX_STREAMS = 1 << 16
"""To the process beside it."""
FILES_PER_CONNECTION = 3
"""Its own, one to where it leads, and as much for all else."""


def bootstrap(settings: Settings, max_files: int) -> Message:
    """An envoy.config.bootstrap.v3.Bootstrap; `max_files`: how many Envoy may have open."""
    socket = str(settings.socket)
    ads = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": ADS_CLUSTER}}],
        "set_node_on_first_message_only": True,
    }
    from_ads = {"ads": {}, "resource_api_version": "V3"}
    return new(
        "envoy.config.bootstrap.v3.Bootstrap",
        node=_node(settings),
        admin={"address": {"pipe": {"path": str(settings.admin), "mode": 0o600}}},
        bootstrap_extensions=[extension("internal_listener", "bootstrap.internal_listener.v3.InternalListener")],
        dynamic_resources={"ads_config": ads, "lds_config": from_ads, "cds_config": from_ads},
        static_resources={"clusters": [_local(ADS_CLUSTER, socket), _local(SDS_CLUSTER, socket)]},
        stats_flush_interval={"seconds": 5},
        layered_runtime=runtime(),
        overload_manager={"resource_monitors": [_limit(settings.max_connections or max(1, max_files // FILES_PER_CONNECTION))]},
    )


def runtime() -> dict[str, Any]:
    """The field of a bootstrap: how large expressions may be. By itself Envoy refuses those beyond a hundred instructions."""
    values = new("google.protobuf.Struct", fields={"re2.max_program_size.error_level": {"number_value": ENVOY_MAX_PROGRAM}})
    return {"layers": [{"name": "nodemesh", "static_layer": values}]}


def _limit(connections: int) -> dict[str, Any]:
    """Clients beyond are refused at once: without open files Envoy could reach nobody for those that it has, nor be told anything."""
    kind = "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return extension("envoy.resource_monitors.global_downstream_max_connections", kind, max_active_downstream_connections=connections)


def _node(settings: Settings) -> dict[str, Any]:
    address = str(settings.addresses[0]) if settings.addresses else "0.0.0.0"
    metadata = {
        "INSTANCE_IPS": ",".join(str(one) for one in settings.addresses),
        "NAME": settings.instance or settings.gateway,
        "NAMESPACE": settings.namespace,
        "SERVICE_ACCOUNT": settings.gateway,
    }
    fields = {key: {"string_value": value} for key, value in metadata.items()}
    name = f"{settings.instance or settings.gateway}.{settings.namespace}"
    return {
        "id": f"waypoint~{address}~{name}~{settings.namespace}.svc.{settings.domain}",
        "cluster": f"{settings.gateway}.{settings.namespace}",
        "metadata": new("google.protobuf.Struct", fields=fields),
    }


def _local(name: str, socket: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": socket}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": {"seconds": 2},
        # Each secret has a stream of its own, and a gateway thousands of them.
        "circuit_breakers": {"thresholds": [{"max_requests": {"value": MAX_STREAMS}, "max_pending_requests": {"value": MAX_STREAMS}}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": http_options(explicit_http_config={"http2_protocol_options": {}}),
    }
