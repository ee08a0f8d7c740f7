"""Certificate authorities for the tests: they sign whatever they are told to, right or wrong."""

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY_S = 86_400
PublicKey = ec.EllipticCurvePublicKey


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class Leaf:
    """What a certificate is to say; the defaults make a proper SVID."""

    names: tuple[x509.GeneralName, ...]
    not_before_s: float
    not_after_s: float
    is_ca: bool = False
    digital_signature: bool = True
    subject: str | None = None


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def sign(self, public_key: PublicKey, leaf: Leaf) -> bytes:
        """Returns the certificate (PEM)."""
        subject = x509.Name([] if leaf.subject is None else [x509.NameAttribute(NameOID.COMMON_NAME, leaf.subject)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(leaf.not_before_s, UTC))
            .not_valid_after(datetime.fromtimestamp(leaf.not_after_s, UTC))
            .add_extension(x509.BasicConstraints(ca=leaf.is_ca, path_length=None), critical=True)
            .add_extension(usage(digital_signature=leaf.digital_signature, sign_certificates=leaf.is_ca), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if leaf.names:
            builder = builder.add_extension(x509.SubjectAlternativeName(leaf.names), critical=leaf.subject is None)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def server(self, not_before_s: float) -> tuple[bytes, bytes]:
        """Returns key and certificate (PEM) of a server on loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = (x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")))
        return key_pem(key), self.sign(key.public_key(), Leaf(names, not_before_s, not_before_s + DAY_S))


def usage(*, digital_signature: bool, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def authority(name: str, now_s: float, issuer: Authority | None = None) -> Authority:
    """A root, or an intermediate under `issuer`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now_s - 3650 * DAY_S, UTC))
        .not_valid_after(datetime.fromtimestamp(now_s + 3650 * DAY_S, UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage(digital_signature=False, sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer.key if issuer else key).public_key()),
            critical=False,
        )
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    return Authority(certificate, key)


def of_no_version(certificate: x509.Certificate) -> bytes:
    """The certificate as DER, but of a version that X.509 does not have."""
    der = bytearray(certificate.public_bytes(Encoding.DER))
    der[der.index(bytes((0xA0, 3, 2, 1, 2))) + 4] = 7
    return bytes(der)
