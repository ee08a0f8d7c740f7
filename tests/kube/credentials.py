"""What an API server is started with: its certificate, the key that signs service-account tokens, and the administrator's token."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class ServerCredentials:
    """Paths of files, and the token of a member of system:masters."""

    ca: Path
    certificate: Path
    key: Path
    issuer_key: Path
    issuer_public: Path
    tokens: Path
    admin_token: str


def make_credentials(directory: Path) -> ServerCredentials:
    """Everything new, in `directory`. The certificate is its own authority."""
    made = ServerCredentials(
        ca=directory / "apiserver.pem",
        certificate=directory / "apiserver.pem",
        key=directory / "apiserver-key.pem",
        issuer_key=directory / "issuer-key.pem",
        issuer_public=directory / "issuer-public.pem",
        tokens=directory / "tokens.csv",
        admin_token=secrets.token_hex(16),
    )
    serving, issuer = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    made.certificate.write_bytes(_certificate(serving).public_bytes(Encoding.PEM))
    made.key.write_bytes(_pem(serving))
    made.issuer_key.write_bytes(_pem(issuer))
    made.issuer_public.write_bytes(issuer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    made.tokens.write_text(f'{made.admin_token},admin,admin,"system:masters"\n')
    return made


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver of a test")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.DNSName("kubernetes.default.svc"), x509.IPAddress(ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
