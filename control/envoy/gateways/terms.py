"""TLS that a gateway ends, as Envoy's context: by secrets, by files, or by the mesh's own identity."""

from typing import Any

from control.envoy.destinations.client_tls import SECRET_WAIT_S
from control.envoy.gateways.servers import Terms
from control.envoy.parts import ROOTS, SVID, extension, secret_source
from control.kinds.istio_gateway import TLSVersion
from control.model.settings import MeshSettings

_VERSIONS = {TLSVersion.V1_0: "TLSv1_0", TLSVersion.V1_1: "TLSv1_1", TLSVersion.V1_2: "TLSv1_2", TLSVersion.V1_3: "TLSv1_3"}


def downstream(terms: Terms, settings: MeshSettings, protocols: tuple[str, ...]) -> dict[str, Any]:
    """The transport socket; `protocols` are offered by ALPN. A secret that is not there keeps its connections out, and nobody else's."""
    common: dict[str, Any] = {"tls_params": _versions(terms), "alpn_protocols": list(protocols)}
    if terms.own:
        common["tls_certificate_sds_secret_configs"] = [secret_source(SVID)]
    elif terms.certificates:
        common["tls_certificate_sds_secret_configs"] = [secret_source(one, wait_s=SECRET_WAIT_S) for one in terms.certificates]
    else:
        common["tls_certificates"] = [
            {"certificate_chain": {"filename": one.certificate}, "private_key": {"filename": one.key}} for one in terms.files
        ]
    if terms.asks:
        common |= _validation(terms, settings)
    fields: dict[str, Any] = {"common_tls_context": common, "require_client_certificate": {"value": terms.requires}}
    # A resumed session would not be asked again for a certificate that was revoked or replaced meanwhile.
    if terms.asks:
        fields |= {"disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True}
    return extension("tls", "transport_sockets.tls.v3.DownstreamTlsContext", **fields)


def _versions(terms: Terms) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tls_minimum_protocol_version": _VERSIONS.get(terms.least, "TLSv1_2"),
        "tls_maximum_protocol_version": _VERSIONS.get(terms.most, "TLSv1_3"),
    }
    return found | ({"cipher_suites": list(terms.ciphers)} if terms.ciphers else {})


def _validation(terms: Terms, settings: MeshSettings) -> dict[str, Any]:
    checks: dict[str, Any] = {"verify_certificate_spki": list(terms.keys), "verify_certificate_hash": list(terms.hashes)}
    names = [{"san_type": kind, "matcher": {"exact": name}} for name in terms.names for kind in _san_types(name)]
    if terms.own and not names:
        names = [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{settings.trust_domain}/ns/"}}]
    checks["match_typed_subject_alt_names"] = names
    if terms.roots_file:
        return {"validation_context": {**checks, "trusted_ca": {"filename": terms.roots_file}}}
    source = secret_source(ROOTS) if terms.own else secret_source(terms.roots, wait_s=SECRET_WAIT_S)
    return {"combined_validation_context": {"default_validation_context": checks, "validation_context_sds_secret_config": source}}


def _san_types(name: str) -> tuple[str, ...]:
    return ("URI",) if "://" in name else ("DNS",)
