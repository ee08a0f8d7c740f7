"""Keys, certificate requests, and the check that what came back is what was asked for, before anyone uses it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

MAX_CHAIN: Final = 10
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What reading a certificate may raise, when it is loaded or when a part of it is looked at: the library has no common error."""

PrivateKey = ec.EllipticCurvePrivateKey


class CertificateError(ValueError):
    """A certificate that must not be used, and why."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A checked certificate: `chain_pem` is the leaf and its intermediates, without roots; times in Unix seconds."""

    identity: str
    chain_pem: str
    key_pem: str = field(repr=False)
    not_before_s: float
    not_after_s: float
    serial: int


def new_key() -> PrivateKey:
    """Makes a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> str:
    """The key as PEM, unencrypted: for the proxy's socket and a private file, nothing else."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def request_pem(key: PrivateKey, identity: str) -> str:
    """A certificate request as Istio's agents send it: empty subject, one URI, nothing else."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode("ascii")


def parse_chain(parts: Iterable[str]) -> list[x509.Certificate]:
    """Parses PEM texts of one or more certificates each; raises CertificateError."""
    try:
        certificates = [certificate for part in parts for certificate in x509.load_pem_x509_certificates(part.encode("ascii"))]
    except UNREADABLE as error:
        raise CertificateError(f"the chain can't be read: {error}") from error
    if not 0 < len(certificates) <= MAX_CHAIN:
        raise CertificateError(f"a chain of {len(certificates)} certificates: must be 1 to {MAX_CHAIN}")
    return certificates


def is_root(certificate: x509.Certificate) -> bool:
    """Whether the certificate signed itself."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def check_issued(
    identity: str, chain: Sequence[x509.Certificate], key: PrivateKey, roots: Sequence[x509.Certificate], now_s: float
) -> Issued:
    """Returns the certificate ready for use; raises CertificateError if it is not ours, not exactly `identity`, or not good at `now_s`."""
    leaf = chain[0]
    try:
        _check_key(leaf, key)
        _check_names(leaf, identity)
        _check_use(leaf)
        _check_path(chain, roots, now_s)
    except UNREADABLE as error:
        raise CertificateError(f"{identity}: {error}") from error
    return Issued(
        identity=identity,
        chain_pem="".join(_pem(certificate) for certificate in chain if not is_root(certificate)),
        key_pem=key_pem(key),
        not_before_s=leaf.not_valid_before_utc.timestamp(),
        not_after_s=leaf.not_valid_after_utc.timestamp(),
        serial=leaf.serial_number,
    )


def check_kept(identity: str, chain_pem: str, key_text: str, roots: Sequence[x509.Certificate], now_s: float) -> Issued:
    """Checks a certificate that was kept on disk; raises CertificateError."""
    try:
        key = load_pem_private_key(key_text.encode("ascii"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The parser's text could hold parts of the key.
        raise CertificateError(f"{identity}: the kept key can't be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{identity}: the kept key is of another kind")
    return check_issued(identity, parse_chain([chain_pem]), key, roots, now_s)


def _check_key(leaf: x509.Certificate, key: PrivateKey) -> None:
    ours = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != ours:
        raise CertificateError("holds another key than the one that was sent")


def _check_names(leaf: x509.Certificate, identity: str) -> None:
    names = list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise CertificateError(f"must name one URI and nothing else, not {len(names)} names")
    if names[0].value != identity:
        raise CertificateError(f"names {names[0].value[:200]!r}")


def _check_use(leaf: x509.Certificate) -> None:
    if leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise CertificateError("is a signing certificate")
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise CertificateError("its key usage must be digitalSignature, and not signing certificates")


def _check_path(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now_s: float) -> None:
    if not roots:
        raise CertificateError("there is no trusted root")
    leaf, *others = chain
    now = datetime.fromtimestamp(now_s, UTC)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        raise CertificateError(f"is valid from {begin:%Y-%m-%dT%H:%M:%SZ} to {end:%Y-%m-%dT%H:%M:%SZ}, and now is {now:%Y-%m-%dT%H:%M:%SZ}")
    verifier = PolicyBuilder().store(Store(list(roots))).time(now).build_client_verifier()
    try:
        verifier.verify(leaf, [certificate for certificate in others if not is_root(certificate)])
    except VerificationError as error:
        raise CertificateError(f"does not chain to a trusted root: {str(error)[:200]}") from error


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")
