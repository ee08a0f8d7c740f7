"""A certificate authority for the servers and clients of tests, in files that Python's TLS and Envoy read."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """One root; `issue` makes certificates of names with `://` in them for URIs, others for hosts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        certificate = self._certificate(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=None))
        self.root = directory / "root.pem"
        self.root.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str) -> tuple[Path, Path]:
        """The files with a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name) for name in names])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "one of a test")])
        certificate = self._certificate(subject, key.public_key(), x509.BasicConstraints(ca=False, path_length=None), san)
        base = self._directory / f"{abs(hash(names))}"
        files = (base.with_suffix(".crt"), base.with_suffix(".key"))
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return files

    def server(self, *names: str, ask: bool = False) -> ssl.SSLContext:
        """What a server speaks; `ask`: it wants a certificate of its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(*names))
        context.load_verify_locations(self.root)
        context.verify_mode = ssl.CERT_REQUIRED if ask else ssl.CERT_NONE
        return context

    def secret(self, name: str, *names: str) -> dict[str, Any]:
        """Envoy's secret of this name: a certificate and its key."""
        certificate, key = self.issue(*names)
        return {
            "name": name,
            "tls_certificate": {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}},
        }

    def roots(self, name: str) -> dict[str, Any]:
        """Envoy's secret of this name: this root."""
        return {"name": name, "validation_context": {"trusted_ca": {"filename": str(self.root)}}}

    def _certificate(self, subject: x509.Name, key: Any, constraints: x509.BasicConstraints, *extensions: Any) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        builder = builder.not_valid_after(now + timedelta(days=1)).add_extension(constraints, critical=True)
        for one in extensions:
            builder = builder.add_extension(one, critical=False)
        return builder.sign(self._key, hashes.SHA256())
