"""Envoy's own judgement of what is translated: one run of `--mode validate` over any number of resources."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from control.envoy.messages import Message, message_class, new, packed
from control.envoy.parts import SDS_CLUSTER, extension
from control.envoy.view import ProxyView
from control.waypoint.bootstrap import runtime

ENVOY = Path(__file__).parents[3] / ".venv-envoy/bin/envoy"


def messages(view: ProxyView, type_url: str) -> dict[str, Message]:
    """What a view serves of a type, by name."""
    kind = message_class(type_url.partition("/")[2])
    return {name: kind.FromString(view.get(type_url, name).body) for name in sorted(view.names(type_url))}


def validate(directory: Path, *views: ProxyView) -> None:
    """Fails with Envoy's words if it would refuse any of it."""
    found = {kind: [one for view in views for one in messages(view, kind).values()] for kind in (LISTENER, CLUSTER, ENDPOINTS, ROUTES)}
    validate_messages(directory, found[LISTENER], found[CLUSTER], found[ENDPOINTS], found[ROUTES])


def validate_messages(
    directory: Path,
    listeners: Iterable[Message] = (),
    clusters: Iterable[Message] = (),
    assignments: Iterable[Message] = (),
    routes: Iterable[Message] = (),
) -> None:
    """Likewise. Names may occur once, so several proxies' listeners need several calls."""
    of_assignments = [
        new("envoy.config.cluster.v3.Cluster", name=f"{one.cluster_name}?", load_assignment=one, type="STATIC") for one in assignments
    ]
    of_routes = [_listener_of(one, number) for number, one in enumerate(routes)]
    service = {"envoy_grpc": {"cluster_name": SDS_CLUSTER}}
    bootstrap = new(
        "envoy.config.bootstrap.v3.Bootstrap",
        node={"id": "test", "cluster": "test"},
        bootstrap_extensions=[extension("internal", "bootstrap.internal_listener.v3.InternalListener")],
        layered_runtime=runtime(),
        dynamic_resources={"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]}},
        static_resources={"listeners": [*listeners, *of_routes], "clusters": [_local(), *clusters, *of_assignments]},
    )
    file = directory / "validate.pb"
    file.write_bytes(bootstrap.SerializeToString())
    command = [ENVOY, "--mode", "validate", "-c", file.absolute(), "-l", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=directory)
    assert done.returncode == 0, done.stderr + done.stdout


def _local() -> Message:
    endpoint = {"endpoint": {"address": {"pipe": {"path": "/nowhere"}}}}
    assignment = {"cluster_name": SDS_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return new("envoy.config.cluster.v3.Cluster", name=SDS_CLUSTER, type="STATIC", load_assignment=assignment)


def _listener_of(routes: Message, number: int) -> Message:
    """Routes are judged as part of a listener."""
    names = ["cors", "fault", "router"]
    kinds = ["filters.http.cors.v3.Cors", "filters.http.fault.v3.HTTPFault", "filters.http.router.v3.Router"]
    manager = new(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="test",
        route_config=routes,
        http_filters=[extension(f"envoy.filters.http.{name}", kind) for name, kind in zip(names, kinds, strict=True)],
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
    )
    chain = {"filters": [{"name": "http", "typed_config": packed(manager)}]}
    return new("envoy.config.listener.v3.Listener", name=f"routes {number}", internal_listener={}, filter_chains=[chain])
