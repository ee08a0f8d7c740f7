"""TLS that a proxy speaks to endpoints because a rule says so: inside the tunnel, where there is one."""

from typing import Any, Final

from msgspec import Struct

from control.envoy.destinations.rules import Policy
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef, Layer
from control.envoy.parts import DESTINATION, IDENTITY, ROOTS, SVID, extension, internal_upstream, secret_source
from control.kinds.destination import ClientTLS, ProxyProtocol, TLSMode
from control.model.settings import MeshSettings

SYSTEM_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
SECRET_WAIT_S: Final = 2
_SOCKETS: Final = "transport_sockets"


class Transport(Struct, frozen=True):
    """What the TLS of a cluster follows from. `names`: those that the service itself says its servers have."""

    policy: Policy
    settings: MeshSettings
    ref: ClusterRef
    names: tuple[str, ...] = ()

    def expected(self, tls: ClientTLS) -> tuple[str, ...]:
        """The names that are stated: by the rule, else by the service."""
        return tls.subject_alt_names or self.names


def secure(cluster: Message, of: Transport) -> None:
    """Replaces the transports of a cluster; without TLS and PROXY in the policy they stay."""
    inner = _transport(of)
    if inner is None:
        return
    mutual = of.policy.tls is not None and of.policy.tls.mode is TLSMode.ISTIO_MUTUAL
    for match in cluster.transport_socket_matches:
        if match.name == "plaintext":
            match.transport_socket.CopyFrom(new("envoy.config.core.v3.TransportSocket", **inner))
        elif not mutual:
            # The tunnel proves who the endpoint is; what the rule wants is for the application behind it.
            tunnel = internal_upstream(DESTINATION, IDENTITY, inner=inner)
            match.transport_socket.CopyFrom(new("envoy.config.core.v3.TransportSocket", **tunnel))


def _transport(of: Transport) -> dict[str, Any] | None:
    """What lies over the bytes to an endpoint; None for nothing."""
    found: dict[str, Any] | None = None
    match of.policy.tls:
        case ClientTLS(mode=TLSMode.ISTIO_MUTUAL) as tls:
            found = _as_workload(tls, of)
        case ClientTLS(mode=TLSMode.SIMPLE | TLSMode.MUTUAL) as tls:
            found = _tls(tls, of)
    if of.policy.proxy_protocol is not None:
        found = _behind_proxy_protocol(of.policy.proxy_protocol, found)
    return found


def _as_workload(tls: ClientTLS, of: Transport) -> dict[str, Any]:
    """As the proxy itself, to a workload of the mesh that takes mutual TLS without a tunnel."""
    names = [{"exact": name} for name in of.expected(tls)] or [{"prefix": f"spiffe://{of.settings.trust_domain}/ns/"}]
    context = {
        "tls_params": _versions("TLSv1_3"),
        "tls_certificate_sds_secret_configs": [secret_source(SVID)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": name} for name in names]},
            "validation_context_sds_secret_config": secret_source(ROOTS),
        },
        "alpn_protocols": ["istio"],
    }
    return extension("tls", f"{_SOCKETS}.tls.v3.UpstreamTlsContext", common_tls_context=context, sni=tls.sni, max_session_keys={"value": 0})


def _tls(tls: ClientTLS, of: Transport) -> dict[str, Any]:
    hostname, namespace = of.ref.hostname, of.policy.namespace
    # Of a wildcard the request names the server, and Envoy takes both names from there.
    by_request = hostname.startswith("*.") and of.ref.layer is Layer.HTTP and not tls.sni
    # Without a name that is expected, any certificate of any authority would do.
    expected = of.expected(tls) or (() if by_request else (tls.sni or hostname,))
    names = [{"san_type": kind, "matcher": {"exact": name}} for name in expected for kind in _san_types(name)]
    context: dict[str, Any] = {"tls_params": _versions("TLSv1_2")}
    checks: dict[str, Any] = {} if tls.insecure_skip_verify else {"match_typed_subject_alt_names": names}
    if tls.mode is TLSMode.MUTUAL:
        context["tls_certificate_sds_secret_configs"] = [_secret(namespace, tls.credential_name)]
    if tls.insecure_skip_verify:
        context["validation_context"] = {"trust_chain_verification": "ACCEPT_UNTRUSTED"}
    elif tls.credential_name:
        roots = _secret(namespace, f"{tls.credential_name}-cacert")
        context["combined_validation_context"] = {"default_validation_context": checks, "validation_context_sds_secret_config": roots}
    else:
        context["validation_context"] = {**checks, "trusted_ca": {"filename": SYSTEM_ROOTS}}
    fields: dict[str, Any] = {"common_tls_context": context}
    if tls.sni or not hostname.startswith("*."):
        fields["sni"] = tls.sni or hostname
    return extension("tls", f"{_SOCKETS}.tls.v3.UpstreamTlsContext", **fields)


def _versions(least: str) -> dict[str, str]:
    """Where no highest version is stated, Envoy as a client stops at 1.2."""
    return {"tls_minimum_protocol_version": least, "tls_maximum_protocol_version": "TLSv1_3"}


def _secret(namespace: str, name: str) -> Message:
    # One that nobody has must not keep an Envoy from starting; what needs it fails until it is there.
    return secret_source(credential(namespace, name), wait_s=SECRET_WAIT_S)


def credential(namespace: str, name: str) -> str:
    """The SDS name of a secret that rules of a namespace name, as Istio forms it."""
    return f"kubernetes://{namespace}/{name}"


def _san_types(name: str) -> tuple[str, ...]:
    return ("URI",) if "://" in name else ("DNS",)


def _behind_proxy_protocol(proxy: ProxyProtocol, inner: dict[str, Any] | None) -> dict[str, Any]:
    kind = f"{_SOCKETS}.proxy_protocol.v3.ProxyProtocolUpstreamTransport"
    inside = inner or extension("raw", f"{_SOCKETS}.raw_buffer.v3.RawBuffer")
    return extension("proxy_protocol", kind, config={"version": proxy.version}, transport_socket=inside)
