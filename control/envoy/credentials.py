"""Certificates of gateways as Envoy's secrets: what a Secret of Kubernetes holds, in the two layouts that Istio knows.

`kubernetes.io/tls`: `tls.crt`, `tls.key` and perhaps `ca.crt`, `ca.crl`; generic: `cert`, `key`, `cacert`, `crl`. The roots for `name` are
those of the Secret `name-cacert`, or else of `name` itself; a ConfigMap has roots alone. What can't be used is nothing, with the reason:
Envoy would refuse it as late as with a connection.
"""

from collections.abc import Callable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from msgspec import Struct

from control.envoy.messages import Message, new

SCHEME = "kubernetes://"
CONFIG_MAP_SCHEME = "configmap://"
ROOTS_SUFFIX = "-cacert"
MAX_BYTES = 1 << 20
"""As much as Kubernetes lets a Secret hold."""
_MESSAGE = "envoy.extensions.transport_sockets.tls.v3.Secret"
Data = Mapping[str, bytes]


class CredentialError(ValueError):
    """What a Secret holds can't be used; never tells any of it."""


class Credential(Struct, frozen=True):
    """A Secret, or a ConfigMap, by what stands in the name of a secret of Envoy's."""

    namespace: str
    name: str
    config_map: bool = False


Look = Callable[[Credential], Data | None]
"""What one holds; None where there is none."""


def parse(name: str) -> Credential | None:
    """Of `kubernetes://namespace/name`, of which the roots are `name-cacert`, or `configmap://namespace/name`; None for what is neither."""
    scheme = next((one for one in (SCHEME, CONFIG_MAP_SCHEME) if name.startswith(one)), "")
    namespace, _, rest = name.removeprefix(scheme).partition("/")
    return Credential(namespace, rest, scheme == CONFIG_MAP_SCHEME) if scheme and namespace and rest and "/" not in rest else None


def needed(name: str) -> tuple[Credential, ...]:
    """What may hold what is asked for by a name, the first that is there counts."""
    found = parse(name)
    if found is None:
        return ()
    if found.config_map:
        return (found,)
    own = found.name.removesuffix(ROOTS_SUFFIX)
    return (found, Credential(found.namespace, own)) if own and own != found.name else (found,)


def secret(name: str, look: Look) -> Message | None:
    """Envoy's Secret of a name; None where there is none. Raises CredentialError."""
    for index, one in enumerate(needed(name)):
        data = look(one)
        if data is None:
            continue
        if sum(len(value) for value in data.values()) > MAX_BYTES:
            raise CredentialError("is too long")
        if one.config_map:
            return _roots(name, data)
        # A Secret may well be called x-cacert and hold a certificate.
        if index == 0 and _pair(data) is not None:
            return _certificate(name, data)
        if name.endswith(ROOTS_SUFFIX):
            return _roots(name, data)
        raise CredentialError("holds no certificate with its key: tls.crt and tls.key, or cert and key")
    return None


def _pair(data: Data) -> tuple[bytes, bytes] | None:
    for certificate, key in (("tls.crt", "tls.key"), ("cert", "key")):
        if data.get(certificate) and data.get(key):
            return data[certificate], data[key]
    return None


def _certificate(name: str, data: Data) -> Message:
    pair = _pair(data)
    if pair is None:
        raise CredentialError("holds no certificate with its key")
    chain, key = pair
    _check_pair(chain, key)
    return new(_MESSAGE, name=name, tls_certificate={"certificate_chain": {"inline_bytes": chain}, "private_key": {"inline_bytes": key}})


def _check_pair(chain: bytes, key: bytes) -> None:
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise CredentialError("its certificate is no PEM") from error
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise CredentialError("its key is no PEM without a password") from error
    if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        raise CredentialError("its key is of a kind that TLS does not use")
    if _public(private.public_key()) != _public(leaf.public_key()):
        raise CredentialError("its key is not that of its certificate")


def _public(key: object) -> bytes:
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        raise CredentialError("its certificate's key is of a kind that TLS does not use")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _roots(name: str, data: Data) -> Message:
    roots = data.get("ca.crt") or data.get("cacert")
    if not roots:
        raise CredentialError("holds no roots: ca.crt, or cacert")
    try:
        x509.load_pem_x509_certificates(roots)
    except ValueError as error:
        raise CredentialError("its roots are no PEM") from error
    fields = {"trusted_ca": {"inline_bytes": roots}}
    crl = data.get("ca.crl") or data.get("crl")
    if crl:
        try:
            x509.load_pem_x509_crl(crl)
        except ValueError as error:
            # Without the list, who is on it would be let in.
            raise CredentialError("its list of revoked certificates is no PEM") from error
        fields["crl"] = {"inline_bytes": crl}
    return new(_MESSAGE, name=name, validation_context=fields)
