"""HBONE at a proxy: the listener that ends the tunnels of clients, and the one that begins those to endpoints.

    connect_terminate :15008   mutual TLS, HTTP/2 CONNECT; the authority becomes the original destination, the certificate the peer
      -> main_internal         by original destination: see `waypoint`
        -> connect_originate   a CONNECT to the chosen endpoint, which must prove the identity that is known of it

An authority that is none of this proxy's has no virtual host: 404, before anything is opened for it.
"""

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from control.envoy.built import Built, built
from control.envoy.listeners.callers import caller_filter, caller_generation, caller_settings
from control.envoy.messages import new
from control.envoy.naming import DIRECT_ORIGINATE, INTERNAL, ORIGINATE, SNIFFING, TERMINATE
from control.envoy.parts import (
    DESTINATION,
    HTTP2,
    IDENTITY,
    IDENTITY_STATE,
    PEER,
    PEER_ADDRESS,
    VIA,
    ads,
    extension,
    http_options,
    internal_address,
    internal_upstream,
    mesh_tls,
    original_destination,
    shared_state,
    socket_address,
)
from control.envoy.reports import refusal_reports
from control.envoy.world import World
from meshapi import wire
from meshapi.trust import Revocation
from meshapi.workload import IPAddress

MANAGER: Final = "filters.network.http_connection_manager.v3.HttpConnectionManager"
LISTENER_MESSAGE: Final = "envoy.config.listener.v3.Listener"
CLUSTER_MESSAGE: Final = "envoy.config.cluster.v3.Cluster"
MAX_STREAMS: Final = 100
HANDSHAKE_S: Final = 15


class Destinations(Struct, frozen=True):
    """What may be asked for by CONNECT at some addresses: ports that say what they carry, and others; `any_port`: all others, too."""

    name: str
    addresses: tuple[IPAddress, ...]
    ports: tuple[int, ...] = ()
    sniffed: tuple[int, ...] = ()
    any_port: bool = False


def terminate_listener(world: World, listen: tuple[str, ...]) -> Built:
    """Takes tunnels, at these addresses or at all."""
    states = [
        shared_state(f"{DESTINATION}.local_ip", "%REQ(:AUTHORITY)%"),
        # The connection's own: the other operator believes what `x-forwarded-for` says.
        shared_state(PEER_ADDRESS, "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"),
        # To be read as text by whoever decides: RBAC, logs, headers.
        shared_state(PEER, "%DOWNSTREAM_PEER_URI_SAN%", "envoy.string"),
    ]
    manager = extension(
        "http",
        MANAGER,
        stat_prefix=TERMINATE,
        codec_type="HTTP2",
        rds={"config_source": ads(), "route_config_name": TERMINATE},
        http_filters=[
            caller_filter(),
            extension("destination", "filters.http.set_filter_state.v3.Config", on_request_headers=states),
            extension("router", "filters.http.router.v3.Router", suppress_envoy_headers=True),
        ],
        http2_protocol_options={**HTTP2, "max_concurrent_streams": {"value": MAX_STREAMS}},
        stream_idle_timeout={},
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
        use_remote_address={"value": False},
        generate_request_id={"value": False},
        access_log=[refusal_reports()],
    )
    addresses = [_bound(address) for address in listen or ("::",)]
    chain = {"name": TERMINATE, "filters": [manager], "transport_socket": mesh_tls(world.settings, "Downstream")}
    chain |= {"metadata": caller_generation(world.distrusted())}
    message = new(
        LISTENER_MESSAGE,
        name=TERMINATE,
        address=addresses[0],
        additional_addresses=[{"address": one} for one in addresses[1:]],
        filter_chains=[chain],
        # A tunnel carries many connections: that two heavy ones meet on one worker by chance costs half of the throughput.
        connection_balance_config={"exact_balance": {}},
        per_connection_buffer_limit_bytes={"value": 1 << 20},
    )
    return built(TERMINATE, message)


def terminate_routes(found: Iterable[Destinations], revocations: Iterable[Revocation] = ()) -> Built:
    """To which authorities there is a way in, and whose certificates are taken no more."""
    message = new(
        "envoy.config.route.v3.RouteConfiguration",
        name=TERMINATE,
        ignore_port_in_host_matching=True,
        typed_per_filter_config=caller_settings(revocations),
        virtual_hosts=[
            {"name": one.name, "domains": [_domain(address) for address in one.addresses], "routes": _routes(one)}
            for one in found
            if one.addresses
        ],
    )
    return built(TERMINATE, message)


def internal_cluster(_world: World, listener: str) -> Built:
    """From `connect_terminate` to another listener of the same name."""
    endpoint = {"endpoint": {"address": internal_address(listener)}}
    message = new(
        CLUSTER_MESSAGE,
        name=listener,
        type="STATIC",
        load_assignment={"cluster_name": listener, "endpoints": [{"lb_endpoints": [endpoint]}]},
        transport_socket=internal_upstream(),
    )
    return built(listener, message)


def originate_listener(_world: World) -> Built:
    """The endpoint's address becomes the authority; its identity is all that the handshake accepts, and part of the pool's key.

    Without an identity the text is `-`, which no certificate has.
    """
    identity = shared_state(IDENTITY_STATE, f"%DYNAMIC_METADATA({IDENTITY}:identity)%")
    return _originating(ORIGINATE, extension("expected", "filters.network.set_filter_state.v3.Config", on_new_connection=[identity]))


def direct_originate_listener(_world: World) -> Built:
    """The same where the connection's state says where to and who must be there."""
    return _originating(DIRECT_ORIGINATE)


def _originating(name: str, *ahead: dict[str, Any]) -> Built:
    tunnel = extension(
        "tunnel",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=name,
        cluster=ORIGINATE,
        tunneling_config={"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"},
        idle_timeout={},
    )
    message = new(
        LISTENER_MESSAGE,
        name=name,
        internal_listener={},
        listener_filters=[original_destination()],
        filter_chains=[{"name": name, "filters": [*ahead, tunnel]}],
    )
    return built(name, message)


def originate_cluster(world: World) -> Built:
    """To the HBONE port of whatever address the connection was to, or of the waypoint that it goes by."""
    message = new(
        CLUSTER_MESSAGE,
        name=ORIGINATE,
        type="ORIGINAL_DST",
        lb_policy="CLUSTER_PROVIDED",
        original_dst_lb_config={
            "upstream_port_override": {"value": wire.HBONE_PORT},
            "metadata_key": {"key": DESTINATION, "path": [{"key": VIA}]},
        },
        connect_timeout={"seconds": 5},
        cleanup_interval={"seconds": 60},
        typed_extension_protocol_options=http_options(explicit_http_config={"http2_protocol_options": HTTP2}),
        transport_socket=mesh_tls(world.settings, "Upstream"),
    )
    return built(ORIGINATE, message)


def _bound(address: str) -> dict[str, Any]:
    found = socket_address(address, wire.HBONE_PORT)
    if address == "::":
        found["socket_address"]["ipv4_compat"] = True
    return found


def _domain(address: IPAddress) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _routes(found: Destinations) -> list[dict[str, Any]]:
    said = [_route(_at(ports), listener) for ports, listener in ((found.ports, INTERNAL), (found.sniffed, SNIFFING)) if ports]
    return [*said, _route({"connect_matcher": {}}, SNIFFING)] if found.any_port else said


def _at(ports: tuple[int, ...]) -> dict[str, Any]:
    regex = f".*:({'|'.join(str(port) for port in sorted(ports))})"
    return {"connect_matcher": {}, "headers": [{"name": ":authority", "string_match": {"safe_regex": {"regex": regex}}}]}


def _route(match: dict[str, Any], cluster: str) -> dict[str, Any]:
    action = {"cluster": cluster, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}], "timeout": {"seconds": 0}}
    return {"match": match, "route": action}
