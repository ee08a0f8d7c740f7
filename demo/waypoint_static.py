"""A waypoint by hand: an Envoy's static configuration of the path client proxy -> waypoint -> server proxy, and nothing else.

What the controller serves is measured against this, and tests of the path alone use it.

    connect_terminate :15008   mutual TLS, HTTP/2 CONNECT; the authority becomes the original destination, the certificate the peer
      -> main_internal         by original destination: the HTTP of one service
        -> connect_originate   a CONNECT to the chosen endpoint, which must prove the identity that is known of it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.manifests import Manifest

HBONE_PORT: Final = 15008
TERMINATE: Final = "connect_terminate"
INTERNAL: Final = "main_internal"
ORIGINATE: Final = "connect_originate"
PEER: Final = "io.istio.peer_principal"
"""The filter state that holds the client's SPIFFE id."""
DESTINATION: Final = "envoy.filters.listener.original_dst"
"""The metadata of an endpoint that says where it really is: `local`, an `ip:port`."""
IDENTITY: Final = "nodemesh.endpoint"
"""The metadata of an endpoint that says who it must be: `identity`."""
_EXTENSIONS: Final = "type.googleapis.com/envoy.extensions"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# As the node proxy has them: a tunnel must not be held back by a small window.
_HTTP2: Final = {"initial_stream_window_size": 4 << 20, "initial_connection_window_size": 16 << 20, "allow_connect": True}


@dataclass(frozen=True)
class StaticEndpoint:
    """`address` is `ip:port` of the application. `identity` is who the other end of its tunnel must be."""

    address: str
    identity: str


@dataclass(frozen=True)
class StaticService:
    """`addresses` are those that its callers dial, on `port`."""

    name: str
    addresses: tuple[str, ...]
    port: int
    endpoints: tuple[StaticEndpoint, ...]


def waypoint_config(directory: Path, address: str, services: Sequence[StaticService], *, admin_port: int = 15000) -> Manifest:
    """An Envoy that listens at `address`; `directory` holds its certificate and the roots: `svid.pem`, `svid.key`, `root.pem`."""
    internal = {"name": "internal", "typed_config": {"@type": f"{_EXTENSIONS}.bootstrap.internal_listener.v3.InternalListener"}}
    return {
        "admin": {"address": _socket("127.0.0.1", admin_port)},
        "bootstrap_extensions": [internal],
        "static_resources": {
            "listeners": [_terminate(directory, address), _main(services), _originate()],
            "clusters": [_to_main(), *(_service_cluster(service) for service in services), _to_endpoints(directory)],
        },
    }


# ---- from the client


def _terminate(directory: Path, address: str) -> Manifest:
    """Of each CONNECT: where it wants to go and who asks, given on with its bytes; Envoy closes what is no CONNECT."""
    state = {
        "@type": f"{_EXTENSIONS}.filters.http.set_filter_state.v3.Config",
        "on_request_headers": [
            _shared(f"{DESTINATION}.local_ip", "%REQ(:AUTHORITY)%"),
            _shared(f"{DESTINATION}.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
            # To be read as text by whoever decides: RBAC, logs, headers.
            {**_shared(PEER, "%DOWNSTREAM_PEER_URI_SAN%"), "factory_key": "envoy.string"},
        ],
    }
    upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
    route = {"match": {"connect_matcher": {}}, "route": {"cluster": INTERNAL, "upgrade_configs": [upgrade], "timeout": "0s"}}
    manager = _manager(TERMINATE, [_http_filter("state", state)], [route]) | {
        "codec_type": "HTTP2",
        "http2_protocol_options": _HTTP2,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    }
    chain = {"filters": [_filter("http", manager)], "transport_socket": _tls(directory, "Downstream")}
    return {"name": TERMINATE, "address": _socket(address, HBONE_PORT), "filter_chains": [chain]}


def _to_main() -> Manifest:
    raw = {"name": "raw", "typed_config": {"@type": f"{_EXTENSIONS}.transport_sockets.raw_buffer.v3.RawBuffer"}}
    transport = {"@type": f"{_EXTENSIONS}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport", "transport_socket": raw}
    return {
        "name": INTERNAL,
        "type": "STATIC",
        "load_assignment": _assignment(INTERNAL, [_internal(INTERNAL)]),
        "transport_socket": {"name": "internal", "typed_config": transport},
    }


# ---- the services


def _main(services: Sequence[StaticService]) -> Manifest:
    """A chain for each service, chosen by the address that was dialled; what is none of them has no chain and is closed."""
    original = {"name": "original_dst", "typed_config": {"@type": f"{_EXTENSIONS}.filters.listener.original_dst.v3.OriginalDst"}}
    return {
        "name": INTERNAL,
        "internal_listener": {},
        "listener_filters": [original],
        "filter_chains": [_service_chain(service) for service in services],
    }


def _service_chain(service: StaticService) -> Manifest:
    manager = _manager(service.name, [], [{"match": {"prefix": "/"}, "route": {"cluster": service.name, "timeout": "0s"}}])
    ranges = [{"address_prefix": one, "prefix_len": 128 if ":" in one else 32} for one in service.addresses]
    match = {"prefix_ranges": ranges, "destination_port": service.port}
    return {"name": service.name, "filter_chain_match": match, "filters": [_filter("http", manager)]}


def _service_cluster(service: StaticService) -> Manifest:
    endpoints = [
        {**_internal(ORIGINATE, endpoint.address), "metadata": {"filter_metadata": _metadata(endpoint)}} for endpoint in service.endpoints
    ]
    raw = {"name": "raw", "typed_config": {"@type": f"{_EXTENSIONS}.transport_sockets.raw_buffer.v3.RawBuffer"}}
    transport = {
        "@type": f"{_EXTENSIONS}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        "passthrough_metadata": [{"kind": {"host": {}}, "name": name} for name in (DESTINATION, IDENTITY)],
        "transport_socket": raw,
    }
    return {
        "name": service.name,
        "type": "STATIC",
        "load_assignment": _assignment(service.name, endpoints),
        "transport_socket": {"name": "internal", "typed_config": transport},
    }


def _metadata(endpoint: StaticEndpoint) -> Manifest:
    return {DESTINATION: {"local": endpoint.address}, IDENTITY: {"identity": endpoint.identity}}


# ---- to the endpoint


def _originate() -> Manifest:
    """The endpoint's address becomes the authority; its identity is all that the TLS handshake accepts, and part of the pool's key."""
    original = {"name": "original_dst", "typed_config": {"@type": f"{_EXTENSIONS}.filters.listener.original_dst.v3.OriginalDst"}}
    expected = {
        "@type": f"{_EXTENSIONS}.filters.network.set_filter_state.v3.Config",
        "on_new_connection": [_shared("envoy.network.upstream_subject_alt_names", f"%DYNAMIC_METADATA({IDENTITY}:identity)%")],
    }
    tunnel = {
        "@type": f"{_EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": ORIGINATE,
        "cluster": ORIGINATE,
        "tunneling_config": {"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"},
    }
    chain = {"filters": [_filter("expected", expected), _filter("tunnel", tunnel)]}
    return {"name": ORIGINATE, "internal_listener": {}, "listener_filters": [original], "filter_chains": [chain]}


def _to_endpoints(directory: Path) -> Manifest:
    options = {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}", "explicit_http_config": {"http2_protocol_options": _HTTP2}}
    return {
        "name": ORIGINATE,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"upstream_port_override": HBONE_PORT},
        "connect_timeout": "2s",
        "cleanup_interval": "60s",
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
        "transport_socket": _tls(directory, "Upstream"),
    }


# ---- parts


def _tls(directory: Path, role: str) -> Manifest:
    own = {"certificate_chain": {"filename": str(directory / "svid.pem")}, "private_key": {"filename": str(directory / "svid.key")}}
    context = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [own],
        "validation_context": {"trusted_ca": {"filename": str(directory / "root.pem")}},
        "alpn_protocols": ["h2"],
    }
    config: dict[str, Any] = {"@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.{role}TlsContext", "common_tls_context": context}
    if role == "Downstream":
        config |= {"require_client_certificate": True, "disable_stateless_session_resumption": True}
    return {"name": "tls", "typed_config": config}


def _shared(key: str, text: str) -> Manifest:
    """A value of the connection that goes on to the next one, and no further; without a value there is no connection to give it to."""
    source = {"text_format_source": {"inline_string": text}}
    return {"object_key": key, "format_string": source, "shared_with_upstream": "ONCE"}


def _manager(name: str, filters: list[Manifest], routes: list[Manifest]) -> Manifest:
    router = _http_filter("router", {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"})
    return {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [*filters, router],
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
    }


def _http_filter(name: str, config: Manifest) -> Manifest:
    return {"name": name, "typed_config": config}


def _filter(name: str, config: Manifest) -> Manifest:
    return {"name": name, "typed_config": config}


def _assignment(name: str, endpoints: list[Manifest]) -> Manifest:
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def _internal(listener: str, endpoint_id: str = "") -> Manifest:
    """An endpoint that is a listener of this Envoy; `endpoint_id` tells several apart."""
    return {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": listener, "endpoint_id": endpoint_id}}}}


def _socket(address: str, port: int) -> Manifest:
    """`::` takes IPv4, too."""
    return {"socket_address": {"address": address, "port_value": port, **({"ipv4_compat": True} if address == "::" else {})}}
