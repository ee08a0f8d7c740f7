"""Signing a leaf, and reading it back: a certificate that holds anything but the authorised name is not handed out.

`notBefore` lies in the past, for nodes whose clock is behind, but never before the identity's last revocation: a revocation
refuses what was issued before it, and what is issued after it counts at once.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from control.ca.issuer import Issuer
from control.ca.x509_errors import NOT_ISSUED

BACKDATE_S = 60
DEFAULT_TTL_S = 24 * 3600
MAX_AGENT_TTL_S = 30 * 24 * 3600
"""An agent renews with its certificate, and needs an operator once that has expired: it must outlast a controller that is away.

Only the controller accepts these, and looks at each use whether the node is still there and the certificate not revoked.
"""
MIN_TTL_S = 60


class SigningError(Exception):
    """A certificate that could not be made, or did not come out as it must. It is not handed out."""


@dataclass(frozen=True)
class Validity:
    """From when and until when, in Unix seconds."""

    not_before_s: int
    not_after_s: int


def validity(*, asked_s: int, max_ttl_s: int, revoked_before_s: int, issuer: Issuer, now_s: float) -> Validity:
    """How long a leaf lives: what was asked (0 = a day), within the maximum and the issuer's own end."""
    lifetime_s = min(max(asked_s, MIN_TTL_S) if asked_s > 0 else DEFAULT_TTL_S, max_ttl_s)
    issuer_end_s = int(issuer.certificate.not_valid_after_utc.timestamp())
    issuer_start_s = int(issuer.certificate.not_valid_before_utc.timestamp())
    not_after_s = min(int(now_s) + lifetime_s, issuer_end_s)
    if not_after_s <= now_s:
        raise SigningError("the issuing certificate has expired")
    return Validity(max(int(now_s) - BACKDATE_S, revoked_before_s, issuer_start_s), not_after_s)


def sign_leaf(issuer: Issuer, key: ec.EllipticCurvePublicKey, name: x509.SubjectAlternativeName, when: Validity) -> x509.Certificate:
    """Signs a leaf for `name` and returns it read back; raises SigningError if it holds anything else."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(when.not_before_s, UTC))
        .not_valid_after(datetime.fromtimestamp(when.not_after_s, UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(LEAF_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        # Critical, as it must be beside an empty subject (RFC 5280, 4.2.1.6).
        .add_extension(name, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_authority_identifier(issuer), critical=False)
    )
    signed = builder.sign(issuer.key, hashes.SHA256())
    return _read_back(signed.public_bytes(Encoding.DER), issuer, key, name, when)


def sign_identity(issuer: Issuer, key: ec.EllipticCurvePublicKey, identity: str, when: Validity) -> x509.Certificate:
    """A leaf whose only name is the SPIFFE id `identity`."""
    return sign_leaf(issuer, key, x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), when)


def _read_back(
    der: bytes, issuer: Issuer, key: ec.EllipticCurvePublicKey, name: x509.SubjectAlternativeName, when: Validity
) -> x509.Certificate:
    certificate = x509.load_der_x509_certificate(der)
    extensions = certificate.extensions
    found = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    held = {
        "name": found.critical and found.value == name,
        "subject": not list(certificate.subject),
        "leaf": not extensions.get_extension_for_class(x509.BasicConstraints).value.ca,
        "usage": extensions.get_extension_for_class(x509.KeyUsage).value == LEAF_USAGE,
        "key": _der(certificate.public_key()) == _der(key),
        "validity": (certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())
        == (when.not_before_s, when.not_after_s),
        "signature": _signed_by(certificate, issuer.certificate),
    }
    wrong = sorted(part for part, right in held.items() if not right)
    if wrong:
        raise SigningError(f"the signed certificate does not hold what was authorised: {', '.join(wrong)}")
    return certificate


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except NOT_ISSUED:
        return False
    return True


def _authority_identifier(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    subject = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)


def _der(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SigningError("the signed certificate holds a key of another kind")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
