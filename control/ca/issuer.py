"""What certificates are signed with: a key, its certificate, the chain above it, and the roots that the mesh trusts.

Read from the four files that Istio's `cacerts` secret holds, so that an existing hierarchy can be used as it is. A set of files
is used only if it is whole: the key belongs to the certificate, and the chain ends in one of the roots.
"""

import logging
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from control.ca.x509_errors import NOT_ISSUED, UNREADABLE

ROOTS_FILE = "root-cert.pem"
CERTIFICATE_FILE = "ca-cert.pem"
KEY_FILE = "ca-key.pem"
CHAIN_FILE = "cert-chain.pem"
FILES = (ROOTS_FILE, CERTIFICATE_FILE, KEY_FILE, CHAIN_FILE)
MAX_ROOTS = 64
MIN_RSA_BITS = 2048

log = logging.getLogger(__name__)
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class IssuerError(Exception):
    """Files that make no certificate authority, with the one that is wrong."""


@dataclass(frozen=True)
class Issuer:
    """`intermediates` go out with each leaf: the signing certificate first, the root left out (so empty if a root signs itself)."""

    key: SigningKey = field(repr=False)
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @property
    def roots_pem(self) -> bytes:
        return b"".join(root.public_bytes(Encoding.PEM) for root in self.roots)

    @property
    def roots_der(self) -> tuple[bytes, ...]:
        return tuple(root.public_bytes(Encoding.DER) for root in self.roots)

    @property
    def intermediates_pem(self) -> tuple[bytes, ...]:
        return tuple(certificate.public_bytes(Encoding.PEM) for certificate in self.intermediates)


def load_issuer(directory: Path, now_s: float) -> Issuer:
    """Reads the four files (the chain file may be missing); raises IssuerError."""
    roots = _load_certificates(directory / ROOTS_FILE)
    certificate = _load_certificates(directory / CERTIFICATE_FILE)[0]
    key = _load_key(directory / KEY_FILE)
    if _public(key.public_key()) != _public(certificate.public_key()):
        raise IssuerError(f"{directory / KEY_FILE} is not the key of {directory / CERTIFICATE_FILE}")
    chain_path = directory / CHAIN_FILE
    above = _load_certificates(chain_path) if chain_path.exists() else []
    if len(roots) > MAX_ROOTS:
        raise IssuerError(f"{directory / ROOTS_FILE} holds {len(roots)} roots, more than {MAX_ROOTS}")
    for one in (certificate, *roots):
        _check_authority(one, datetime.fromtimestamp(now_s, UTC))
    return Issuer(key=key, certificate=certificate, intermediates=_chain(certificate, above, roots), roots=tuple(dict.fromkeys(roots)))


def _chain(certificate: x509.Certificate, above: list[x509.Certificate], roots: list[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Walks from the signing certificate up to a root."""
    chain: list[x509.Certificate] = []
    current = certificate
    while current not in roots:
        chain.append(current)
        if any(issued(root, current) for root in roots):
            return tuple(chain)
        issuer = next((one for one in above if one not in chain and issued(one, current)), None)
        if issuer is None:
            raise IssuerError(f"the chain of {CERTIFICATE_FILE} ends in no root of {ROOTS_FILE}: nobody signed {_name(current)}")
        current = issuer
    return tuple(chain)


def issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether one signed the other."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except NOT_ISSUED:
        return False
    return True


def _check_authority(certificate: x509.Certificate, now: datetime) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except UNREADABLE as error:
        raise IssuerError(f"{_name(certificate)} is no certificate authority: {error}") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise IssuerError(f"{_name(certificate)} may not sign certificates (basic constraints CA, key usage keyCertSign)")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise IssuerError(
            f"{_name(certificate)} is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}, not now"
        )


def _load_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, *UNREADABLE) as error:
        raise IssuerError(f"{path}: {error}") from error


def _load_key(path: Path) -> SigningKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise IssuerError(f"{path}: {error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own text is left out: nothing that was read from a key file goes into a message.
        raise IssuerError(f"{path}: no unencrypted private key in PEM") from None
    if mode & 0o077:
        # Not refused: Kubernetes mounts secrets like that, where only the container sees them.
        log.warning("%s can be read by others (mode %04o): it should be 0600", path, mode)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return key
    raise IssuerError(f"{path}: must be an elliptic curve key, or RSA of {MIN_RSA_BITS} bits or more")


def _public(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _name(certificate: x509.Certificate) -> str:
    return f"certificate {certificate.subject.rfc4514_string() or '(no subject)'!r} (serial {certificate.serial_number:x})"
