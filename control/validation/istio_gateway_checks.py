"""Checks of Istio's Gateway: what can't be served, and what would ask less of clients than it seems to."""

import re
from collections.abc import Iterator
from typing import Final

from control.kinds import IstioGateway
from control.kinds.istio_gateway import Server, ServerTLS, TLSMode, TLSVersion
from control.validation import values
from control.validation.core_checks import Path, attempt, attempt_port, label_remarks
from control.validation.finding import Remark, warning
from control.validation.routing_checks import routed_host

HTTP: Final = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB"})
ENCRYPTED: Final = frozenset({"HTTPS", "TLS"})
_PLAIN: Final = frozenset({"TCP", "MONGO"})
CIPHERS: Final = frozenset(
    {
        "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA", "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA",
    }
)  # fmt: skip
"""Those of TLS 1.2 that Envoy knows; those of TLS 1.3 are not to be chosen among."""
_ASKING: Final = frozenset({TLSMode.MUTUAL, TLSMode.OPTIONAL_MUTUAL, TLSMode.ISTIO_MUTUAL})
"""Modes that ask clients for a certificate."""
_OWN: Final = frozenset({TLSMode.SIMPLE, TLSMode.MUTUAL, TLSMode.OPTIONAL_MUTUAL})
"""Modes with a certificate that the Gateway names."""
_OLD: Final = frozenset({TLSVersion.V1_0, TLSVersion.V1_1})
_NAME: Final = re.compile(r"[!-~]{1,2048}\Z", re.ASCII)
_SPKI: Final = re.compile(r"[A-Za-z0-9+/]{43}=\Z", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-fA-F]{2}(:?[0-9a-fA-F]{2}){31}\Z", re.ASCII)


def istio_gateway_remarks(gateway: IstioGateway) -> Iterator[Remark]:
    spec = gateway.spec
    yield from label_remarks(spec.selector, ("spec", "selector"))
    if not spec.selector:
        yield warning(("spec",), "has no selector: it is for every gateway of its namespace", "choose them by selector")
    if not spec.servers:
        yield Remark(("spec",), "serves nothing", "give it servers")
    names: set[str] = set()
    protocols: dict[int, str] = {}
    for index, server in enumerate(spec.servers):
        path: Path = ("spec", "servers", index)
        yield from _server_remarks(server, path)
        for name in filter(None, (server.name,)):
            if name in names:
                yield Remark((*path, "name"), f"another server is called {name[:80]}, too")
            names.add(name)
        before = protocols.setdefault(server.port.number, server.port.protocol)
        if (before in HTTP) != (server.port.protocol in HTTP):
            what = f"port {server.port.number} is {before} above: plaintext HTTP shares a port with nothing else"
            yield Remark((*path, "port", "protocol"), what[:200])


def split_host(text: str) -> tuple[str, str]:
    """The namespace whose rules may claim a host (`*` any, `.` the Gateway's own), and the host."""
    namespace, slash, host = text.rpartition("/")
    return (namespace if slash else "*"), host


def server_host(text: str) -> str:
    """A host of a server: `host`, or `namespace/host`. Raises ValueError."""
    namespace, host = split_host(text)
    if namespace not in {"*", "."}:
        values.label_name(namespace)
    routed_host(host)
    return text


def _server_remarks(server: Server, path: Path) -> Iterator[Remark]:
    yield from attempt_port(server.port.number, (*path, "port", "number"))
    protocol = server.port.protocol
    if protocol not in HTTP | ENCRYPTED | _PLAIN:
        known = ", ".join(sorted(HTTP | ENCRYPTED | _PLAIN))
        yield Remark((*path, "port", "protocol"), f"{protocol[:40]!r} is no protocol of a gateway", f"one of {known}")
    if server.port.target_port:
        yield warning((*path, "port", "targetPort"), "does nothing: the Service in front of the gateway says which port leads here")
    if server.bind:
        yield from attempt(values.address, server.bind, (*path, "bind"))
    if server.default_endpoint:
        yield Remark((*path, "defaultEndpoint"), "is not supported", "say where to with a VirtualService")
    if not server.hosts:
        yield Remark((*path, "hosts"), "needs a host", "* stands for all")
    for index, host in enumerate(server.hosts):
        yield from attempt(server_host, host, (*path, "hosts", index))
    if server.tls is not None:
        yield from _tls_remarks(server.tls, protocol, (*path, "tls"))
    elif protocol in ENCRYPTED:
        yield Remark(path, f"{protocol} needs tls", "say tls.mode, and by which certificate")


def _tls_remarks(tls: ServerTLS, protocol: str, path: Path) -> Iterator[Remark]:
    if protocol not in ENCRYPTED:
        if protocol in _PLAIN or tls != ServerTLS(https_redirect=tls.https_redirect):
            yield Remark(path, f"{protocol[:40]} is not encrypted: no TLS is spoken there", "use HTTPS, or TLS for what is no HTTP")
        return
    if tls.https_redirect:
        yield Remark((*path, "httpsRedirect"), f"{protocol} is encrypted: there is nothing to redirect from")
    if tls.mode is TLSMode.AUTO_PASSTHROUGH:
        yield Remark((*path, "mode"), "AUTO_PASSTHROUGH is not supported", "use PASSTHROUGH with a VirtualService's tls routes")
    if protocol == "HTTPS" and tls.mode is TLSMode.PASSTHROUGH:
        yield warning((*path, "mode"), "what passes through is not read as HTTP: only tls routes, by the name that is asked for, apply")
    yield from _certificate_remarks(tls, path)
    yield from _client_remarks(tls, path)
    yield from _version_remarks(tls, path)


def _certificate_remarks(tls: ServerTLS, path: Path) -> Iterator[Remark]:
    stated = {
        "credentialName": bool(tls.credential_name),
        "credentialNames": bool(tls.credential_names),
        "serverCertificate and privateKey": bool(tls.server_certificate or tls.private_key),
        "tlsCertificates": bool(tls.tls_certificates),
    }
    given = [name for name, there in stated.items() if there]
    if tls.mode not in _OWN:
        for name in given:
            yield Remark(path, f"{tls.mode} has no use for {name}", "SIMPLE and MUTUAL have a certificate")
        return
    if len(given) != 1:
        found = " and ".join(given) or "none"
        yield Remark(path, f"{tls.mode} needs one way to a certificate, there is {found}", "name its Secret by credentialName")
    for index, name in enumerate((tls.credential_name, *tls.credential_names, tls.ca_cert_credential_name)):
        if name:
            place = "credentialName" if index == 0 else "caCertCredentialName" if index > len(tls.credential_names) else "credentialNames"
            yield from attempt(credential, name, (*path, place))
    files = ((tls.server_certificate, tls.private_key), *((one.server_certificate, one.private_key) for one in tls.tls_certificates))
    if any(given) and any(bool(certificate) != bool(key) for certificate, key in files):
        yield Remark(path, "a certificate and its key go together", "say serverCertificate and privateKey")
    if tls.tls_certificates and any(one.ca_certificates for one in tls.tls_certificates):
        yield Remark((*path, "tlsCertificates"), "whom to trust is one for all certificates", "say caCertificates beside tlsCertificates")
    for text in (*(one for pair in files for one in pair), tls.ca_certificates):
        if text:
            yield from attempt(file_path, text, path)


def credential(text: str) -> str:
    """A Secret of the gateway's own namespace, perhaps written as `kubernetes://name`. Raises ValueError."""
    return values.object_name(text.removeprefix("kubernetes://"))


def file_path(text: str) -> str:
    """A file of the proxy. Raises ValueError."""
    if not text.startswith("/") or not text.isprintable() or any(part in {".", "..", ""} for part in text[1:].split("/")):
        raise ValueError(f"{text[:80]!r} is no absolute path of a file")
    return text


def _client_remarks(tls: ServerTLS, path: Path) -> Iterator[Remark]:
    """What is asked of clients: where nobody would ask, it is an error, for it would seem to be asked."""
    roots = tls.ca_certificates or tls.ca_cert_credential_name
    if tls.ca_crl:
        yield Remark((*path, "caCrl"), "is not supported")
    if tls.mode in {TLSMode.MUTUAL, TLSMode.OPTIONAL_MUTUAL}:
        if not roots and not (tls.credential_name or tls.credential_names):
            yield Remark(path, f"{tls.mode} needs the roots of clients' certificates", "say caCertificates or caCertCredentialName")
    elif roots:
        yield Remark(path, f"{tls.mode} does not ask clients for certificates by roots of its own", "mode MUTUAL does")
    named = (
        ("subjectAltNames", tls.subject_alt_names, _NAME),
        ("verifyCertificateSpki", tls.verify_certificate_spki, _SPKI),
        ("verifyCertificateHash", tls.verify_certificate_hash, _HASH),
    )
    for name, given, form in named:
        if given and tls.mode not in _ASKING:
            yield Remark((*path, name), f"{tls.mode} does not ask clients for a certificate", "mode MUTUAL does")
        wrong = ((index, text) for index, text in enumerate(given) if not form.match(text))
        yield from (Remark((*path, name, index), f"{text[:80]!r} has not the form that is expected here") for index, text in wrong)


def _version_remarks(tls: ServerTLS, path: Path) -> Iterator[Remark]:
    least, most = tls.min_protocol_version, tls.max_protocol_version
    order = list(TLSVersion)
    if tls.mode is TLSMode.PASSTHROUGH and (least is not TLSVersion.AUTO or most is not TLSVersion.AUTO or tls.cipher_suites):
        yield Remark(path, "TLS is not spoken here with PASSTHROUGH: versions and ciphers are the server's to choose")
    if TLSVersion.AUTO not in {least, most} and order.index(least) > order.index(most):
        yield Remark((*path, "minProtocolVersion"), f"{least} is above {most}")
    if least in _OLD or most in _OLD:
        yield warning((*path, "minProtocolVersion"), "versions of TLS below 1.2 are broken: attackers can read what is sent")
    for index, text in enumerate(tls.cipher_suites):
        if text not in CIPHERS:
            yield Remark((*path, "cipherSuites", index), f"{text[:60]!r} is no cipher suite that can be chosen", "by its name of OpenSSL")
