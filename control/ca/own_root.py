"""The authority that the controller makes for itself: a root on first start, and an intermediate below it that is renewed in time.

The files are those that an operator would provide, so that loading, watching and reloading are the same for both.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from control.ca.issuer import CERTIFICATE_FILE, CHAIN_FILE, KEY_FILE, ROOTS_FILE, IssuerError, issued, load_issuer
from control.ca.private_files import make_private_directory, write_private
from control.ca.x509_errors import UNREADABLE

ROOT_KEY_FILE = "root-key.pem"
OWN_ROOT_FILE = "own-root-cert.pem"
NEXT_ROOT_FILE = "next-root-cert.pem"
NEXT_KEY_FILE = "next-root-key.pem"
ROOT_LIFETIME = timedelta(days=3653)
INTERMEDIATE_LIFETIME = timedelta(days=365)
RENEW_INTERMEDIATE_BEFORE = timedelta(days=120)
BACKDATE = timedelta(minutes=5)


def ensure_own_authority(directory: Path, trust_domain: str, now_s: float) -> bool:
    """Makes what is missing of the own authority and renews an intermediate that nears its end; whether it changed anything."""
    make_private_directory(directory)
    now = datetime.fromtimestamp(now_s, UTC)
    root_key_path, own_root_path = directory / ROOT_KEY_FILE, directory / OWN_ROOT_FILE
    if not root_key_path.exists() and not (directory / KEY_FILE).exists():
        _make_root(directory, trust_domain, now_s)
    else:
        _end_activation(directory)
        if _intermediate_serves(directory, now):
            return False
    root_key = _load_own_key(root_key_path)
    root = _load_own_root(own_root_path)
    _make_intermediate(directory, trust_domain, (root, root_key), now)
    return True


def _intermediate_serves(directory: Path, now: datetime) -> bool:
    try:
        issuer = load_issuer(directory, now.timestamp())
    except IssuerError:
        return False
    if issuer.certificate.not_valid_after_utc - now <= RENEW_INTERMEDIATE_BEFORE:
        return False
    try:
        # Below a former root it does not; where the own one can't be read, it does as long as it lasts.
        return issued(_load_own_root(directory / OWN_ROOT_FILE), issuer.certificate)
    except IssuerError:
        return True


def _end_activation(directory: Path) -> None:
    """Where a rotation was interrupted between the new root's key and its certificate, the certificate follows."""
    own, coming, key = (directory / name for name in (OWN_ROOT_FILE, NEXT_ROOT_FILE, ROOT_KEY_FILE))
    if not (own.exists() and coming.exists() and key.exists()):
        return
    public = _load_own_key(key).public_key()
    if _load_own_root(own).public_key() != public and _load_own_root(coming).public_key() == public:
        write_private(own, coming.read_bytes())


def make_root(trust_domain: str, now_s: float) -> tuple[bytes, bytes]:
    """A new root: its certificate and its key, in PEM."""
    now = datetime.fromtimestamp(now_s, UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"nodemesh root of {trust_domain}")
    root = _authority(name, key.public_key(), path_length=None, not_after=now + ROOT_LIFETIME, now=now).issuer_name(name)
    return _sign(root, key, key.public_key()).public_bytes(Encoding.PEM), _key_pem(key)


def _make_root(directory: Path, trust_domain: str, now_s: float) -> None:
    pem, key = make_root(trust_domain, now_s)
    write_private(directory / OWN_ROOT_FILE, pem)
    write_private(directory / ROOTS_FILE, pem)
    # The key last: where it exists, what belongs to it does too.
    write_private(directory / ROOT_KEY_FILE, key)


def _make_intermediate(
    directory: Path, trust_domain: str, root: tuple[x509.Certificate, ec.EllipticCurvePrivateKey], now: datetime
) -> None:
    root_certificate, root_key = root
    key = ec.generate_private_key(ec.SECP256R1())
    not_after = min(now + INTERMEDIATE_LIFETIME, root_certificate.not_valid_after_utc)
    name = _name(f"nodemesh issuer of {trust_domain}")
    builder = _authority(name, key.public_key(), path_length=0, not_after=not_after, now=now).issuer_name(root_certificate.subject)
    certificate = _sign(builder, root_key, root_key.public_key()).public_bytes(Encoding.PEM)
    # A crash between these leaves a pair that does not match: the next start makes a new one.
    write_private(directory / KEY_FILE, _key_pem(key))
    write_private(directory / CERTIFICATE_FILE, certificate)
    write_private(directory / CHAIN_FILE, certificate)


def _authority(
    name: x509.Name, key: ec.EllipticCurvePublicKey, *, path_length: int | None, not_after: datetime, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(SIGNING_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer_public_key: ec.EllipticCurvePublicKey
) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public_key)
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    # X.520 ends a common name at 64 characters; the trust domain in it is only for people.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_own_root(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, *UNREADABLE) as error:
        raise IssuerError(f"{path}: {error}") from error


def _load_own_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        raise IssuerError(f"{path}: the root's key is missing or damaged; restore it, or start with an empty state directory") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IssuerError(f"{path}: is not the elliptic curve key that was made here")
    return key


SIGNING_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
