"""Pieces of Envoy's configuration that listeners and clusters share: extensions, addresses, TLS by the proxy's own SVID, HTTP/2."""

from ipaddress import ip_address
from typing import Any, Final

from control.envoy.messages import Message, new, packed
from control.model.settings import MeshSettings

SVID: Final = "default"
ROOTS: Final = "ROOTCA"
SDS_CLUSTER: Final = "sds-grpc"
"""The cluster of the bootstrap by which secrets come: from the process beside this Envoy."""
DESTINATION: Final = "envoy.filters.listener.original_dst"
"""The metadata of an endpoint that says where it really is (`local`, an `ip:port`), and the prefix of the filter states that do."""
VIA: Final = "waypoint"
"""What that metadata calls the `ip:port` where the tunnel itself leads, if not to that destination."""
IDENTITY: Final = "nodemesh.endpoint"
"""The metadata of an endpoint that says who it must be: `identity`."""
TUNNEL_MATCH: Final = "envoy.transport_socket_match"
"""The metadata of an endpoint by which its transport is chosen."""
TUNNEL: Final = {"tunnel": "h2"}
IDENTITY_STATE: Final = "envoy.network.upstream_subject_alt_names"
"""The filter state of who the other end must be: checked in the handshake, and part of the key of a pool."""
PEER: Final = "io.istio.peer_principal"
"""The filter state that holds the client's SPIFFE id, for whoever decides by it."""
PEER_ADDRESS: Final = f"{DESTINATION}.remote_ip"
"""The one that holds the address of a tunnel's client: connections inside of Envoy come from an address of Envoy's own."""
_EXTENSIONS: Final = "envoy.extensions"
# As the node proxy has them: a tunnel must not be held back by a small window.
HTTP2: Final[dict[str, Any]] = {
    "initial_stream_window_size": {"value": 4 << 20},
    "initial_connection_window_size": {"value": 16 << 20},
    "allow_connect": True,
    "connection_keepalive": {"interval": {"seconds": 10}, "timeout": {"seconds": 20}},
}
HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def extension(name: str, kind: str, /, **fields: Any) -> dict[str, Any]:
    """A typed extension by the rest of its full name: `filters.http.router.v3.Router`."""
    return {"name": name, "typed_config": packed(new(f"{_EXTENSIONS}.{kind}", **fields))}


def seconds(value: float) -> dict[str, int]:
    """A duration."""
    whole = int(value)
    return {"seconds": whole, "nanos": round((value - whole) * 1e9)}


def socket_address(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def internal_address(listener: str, endpoint_id: str = "") -> dict[str, Any]:
    """A listener of the same Envoy; `endpoint_id` tells several endpoints apart."""
    return {"envoy_internal_address": {"server_listener_name": listener, "endpoint_id": endpoint_id}}


def host_port(address: str, port: int) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`."""
    return f"[{address}]:{port}" if ip_address(address).version == 6 else f"{address}:{port}"


def raw_buffer() -> dict[str, Any]:
    return extension("raw", "transport_sockets.raw_buffer.v3.RawBuffer")


def internal_upstream(*metadata: str, inner: dict[str, Any] | None = None) -> dict[str, Any]:
    """To a listener of the same Envoy, which is told these metadata of the endpoint, and the filter states that are shared.

    `inner` lies over the bytes that it is given.
    """
    kind = "transport_sockets.internal_upstream.v3.InternalUpstreamTransport"
    passed = [{"kind": {"host": {}}, "name": name} for name in metadata]
    return extension("internal", kind, passthrough_metadata=passed, transport_socket=inner or raw_buffer())


def mesh_tls(settings: MeshSettings, role: str) -> dict[str, Any]:
    """Mutual TLS 1.3 with workloads of the mesh, by the proxy's SVID; no tickets, no early data. `role`: Downstream or Upstream."""
    workloads = {"san_type": "URI", "matcher": {"prefix": f"spiffe://{settings.trust_domain}/ns/"}}
    context: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [secret_source(SVID)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [workloads]},
            "validation_context_sds_secret_config": secret_source(ROOTS),
        },
        "alpn_protocols": ["h2"],
    }
    fields: dict[str, Any] = {"common_tls_context": context}
    if role == "Downstream":
        fields |= {"require_client_certificate": {"value": True}, "disable_stateless_session_resumption": True}
        fields |= {"disable_stateful_session_resumption": True}
    else:
        fields |= {"max_session_keys": {"value": 0}}
    return extension("tls", f"transport_sockets.tls.v3.{role}TlsContext", **fields)


def http_options(**fields: Any) -> dict[str, Any]:
    """The value of a cluster's `typed_extension_protocol_options`."""
    return {HTTP_OPTIONS: packed(new(HTTP_OPTIONS, **fields))}


def shared_state(key: str, text: str, factory: str = "") -> dict[str, Any]:
    """A value of the connection that goes on to the next one, and no further."""
    source = {"text_format_source": {"inline_string": text}}
    return {"object_key": key, "factory_key": factory, "format_string": source, "shared_with_upstream": "ONCE"}


def original_destination() -> dict[str, Any]:
    """The listener filter that takes a connection's destination from its state or metadata."""
    return extension("original_dst", "filters.listener.original_dst.v3.OriginalDst")


def ads() -> dict[str, Any]:
    """Where this comes from, other configuration comes from, too."""
    return {"ads": {}, "resource_api_version": "V3"}


def secret_source(name: str, *, wait_s: int = 0) -> Message:
    """A secret by its name, from the process beside this Envoy. `wait_s`: how long Envoy's start may wait for it, 0 = until it is there."""
    service = {"envoy_grpc": {"cluster_name": SDS_CLUSTER}}
    source: dict[str, Any] = {"api_config_source": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}}
    source |= {"resource_api_version": "V3", "initial_fetch_timeout": {"seconds": wait_s}}
    return new(f"{_EXTENSIONS}.transport_sockets.tls.v3.SdsSecretConfig", name=name, sds_config=source)
