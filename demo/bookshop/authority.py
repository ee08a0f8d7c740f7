"""An authority as the web has them, made for the story: it vouches for the shop's name at the edge, where no browser knows the mesh's."""

import datetime as dt
import ssl
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LIFE: Final = dt.timedelta(days=1)
LEEWAY: Final = dt.timedelta(minutes=5)


class Authority:
    """Its key lives as long as it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bookshop demo authority")])
        empty = self._builder(self._name, self._key.public_key())
        made = empty.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._root = made.add_extension(_signs_only(), critical=True).sign(self._key, hashes.SHA256())

    def trusting(self) -> ssl.SSLContext:
        """What a client has that believes this authority and no other."""
        return ssl.create_default_context(cadata=_pem(self._root))

    def certificate(self, host: str) -> dict[str, bytes]:
        """A key and its certificate, as a Secret of type kubernetes.io/tls has them."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        built = self._builder(subject, key.public_key()).add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        built = built.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return {"tls.crt": _pem(built.sign(self._key, hashes.SHA256())).encode(), "tls.key": private}

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        named = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).serial_number(x509.random_serial_number())
        dated = named.public_key(key).not_valid_before(now - LEEWAY).not_valid_after(now + LIFE)
        return dated.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _signs_only() -> x509.KeyUsage:
    """Certificates and revocation lists."""
    return x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
