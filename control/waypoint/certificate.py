"""The identity's key and certificate: made here, checked before anyone uses it, and kept in a private file for the next start."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from control.ca.private_files import write_private
from control.ca.x509_errors import UNREADABLE

KEPT_FILE = "svid.json"


class CertificateError(ValueError):
    """A certificate that must not be used, and why."""


@dataclass(frozen=True)
class SVID:
    """A checked certificate: `chain_pem` is the leaf and its intermediates; times in Unix seconds."""

    chain_pem: str
    key_pem: str = field(repr=False)
    not_before_s: float
    not_after_s: float

    @property
    def half_life_s(self) -> float:
        """When to ask for the next."""
        return (self.not_before_s + self.not_after_s) / 2


class _Kept(msgspec.Struct, frozen=True):
    chain_pem: str
    key_pem: str


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def request_pem(key: ec.EllipticCurvePrivateKey, identity: str) -> str:
    """A certificate request: empty subject, one URI."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode("ascii")


def check(identity: str, chain_pem: Sequence[str], key: ec.EllipticCurvePrivateKey, roots_pem: bytes, now_s: float) -> SVID:
    """The certificate of a chain (leaf first) ready for use; raises CertificateError if it is not ours, or not exactly `identity`."""
    try:
        certificates = [one for part in chain_pem for one in x509.load_pem_x509_certificates(part.encode("ascii"))]
        leaf, *others = certificates
        above = [one for one in others if not _is_root(one)]
        _check_leaf(leaf, identity, key)
        store = Store(x509.load_pem_x509_certificates(roots_pem))
        PolicyBuilder().store(store).time(datetime.fromtimestamp(now_s, UTC)).build_client_verifier().verify(leaf, above)
    except (VerificationError, *UNREADABLE) as error:
        raise CertificateError(f"{identity}: {str(error)[:200]}") from error
    return SVID(
        chain_pem="".join(one.public_bytes(Encoding.PEM).decode("ascii") for one in (leaf, *above)),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii"),
        not_before_s=leaf.not_valid_before_utc.timestamp(),
        not_after_s=leaf.not_valid_after_utc.timestamp(),
    )


def keep(directory: Path, svid: SVID) -> None:
    """For the next start; 0600."""
    write_private(directory / KEPT_FILE, msgspec.json.encode(_Kept(svid.chain_pem, svid.key_pem)))


def kept(directory: Path, identity: str, roots_pem: bytes, now_s: float) -> SVID | None:
    """What a former start kept, if it is still good."""
    try:
        found = msgspec.json.decode((directory / KEPT_FILE).read_bytes(), type=_Kept)
        key = load_pem_private_key(found.key_pem.encode("ascii"), password=None)
        return check(identity, [found.chain_pem], key, roots_pem, now_s) if isinstance(key, ec.EllipticCurvePrivateKey) else None
    except (FileNotFoundError, ValueError, TypeError, msgspec.DecodeError):
        return None


def _check_leaf(leaf: x509.Certificate, identity: str, key: ec.EllipticCurvePrivateKey) -> None:
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if leaf.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise CertificateError("holds another key than the one that was sent")
    names = list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if [one.value for one in names if isinstance(one, x509.UniformResourceIdentifier)] != [identity] or len(names) != 1:
        raise CertificateError("must name the identity and nothing else")


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
