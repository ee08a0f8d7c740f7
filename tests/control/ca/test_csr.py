"""I4: what a certificate request may be, and all that it may not."""

import base64
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from control.ca.csr import MAX_CSR_BYTES, check_csr
from control.ca.refusal import MalformedError
from tests.control.fakes import csr_pem, new_key

ID = "spiffe://cluster.local/ns/shop/sa/cart"
KEY = new_key()
URI = x509.UniformResourceIdentifier
SAN = x509.SubjectAlternativeName


def der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_takes_what_istio_agents_send() -> None:
    assert der(check_csr(csr_pem(ID, KEY), ID)) == der(KEY.public_key())


def test_takes_an_empty_organization_as_go_agents_write_it() -> None:
    empty = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "", _validate=False)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([empty])).add_extension(SAN([URI(ID)]), critical=True)
    assert check_csr(builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM).decode(), ID)


NAMES = {
    "no name": ((x509.BasicConstraints(ca=False, path_length=None), True),),
    "no URI": ((SAN([x509.DNSName("a.example")]), True),),
    "two URIs": ((SAN([URI(ID), URI("spiffe://cluster.local/ns/shop/sa/other")]), True),),
    "the same URI twice": ((SAN([URI(ID), URI(ID)]), True),),
    "a DNS name beside": ((SAN([URI(ID), x509.DNSName("a.example")]), True),),
    "an address beside": ((SAN([URI(ID), x509.IPAddress(ip_address("10.0.0.1"))]), True),),
    "an email beside": ((SAN([URI(ID), x509.RFC822Name("a@example.com")]), True),),
    "a directory name beside": ((SAN([URI(ID), x509.DirectoryName(x509.Name([]))]), True),),
    "another identity": ((SAN([URI("spiffe://cluster.local/ns/shop/sa/other")]), True),),
    "a longer identity": ((SAN([URI(ID + "/x")]), True),),
    "wants to be an authority": ((SAN([URI(ID)]), True), (x509.BasicConstraints(ca=True, path_length=None), True)),
    "an extension beside": ((SAN([URI(ID)]), True), (x509.BasicConstraints(ca=False, path_length=None), True)),
}


@pytest.mark.parametrize("extensions", NAMES.values(), ids=NAMES.keys())
def test_refuses_other_names(extensions) -> None:
    with pytest.raises(MalformedError) as refused:
        check_csr(csr_pem(ID, KEY, *extensions), ID)
    assert refused.value.check in {"csr-names", "csr-extensions", "csr-identity"}


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        rsa.generate_private_key(65537, 1024),  # noqa: S505 -- what must be refused
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa-2048", "rsa-1024", "p-384", "secp256k1", "ed25519"],
)
def test_refuses_other_keys(key) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(SAN([URI(ID)]), critical=True)
    pem = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    with pytest.raises(MalformedError) as refused:
        check_csr(pem, ID)
    assert refused.value.check == "csr-key"
    assert "P-256" in refused.value.detail


def test_refuses_a_subject() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
    pem = builder.add_extension(SAN([URI(ID)]), critical=True).sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    with pytest.raises(MalformedError, match="csr-subject"):
        check_csr(pem, ID)


def test_refuses_another_attribute() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(SAN([URI(ID)]), critical=True)
    builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"secret")
    with pytest.raises(MalformedError, match="csr-attributes"):
        check_csr(builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM).decode(), ID)


def test_refuses_a_broken_signature() -> None:
    csr = x509.load_pem_x509_csr(csr_pem(ID, KEY).encode())
    body = bytearray(csr.public_bytes(Encoding.DER))
    body[-3] ^= 1
    broken = x509.load_der_x509_csr(bytes(body)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(MalformedError, match="csr-signature"):
        check_csr(broken, ID)


def test_refuses_a_request_for_a_key_of_another() -> None:
    """The key of one request in the frame of another: the signature is by a key that its sender does not certify."""
    mine, theirs = new_key(), new_key()
    body = x509.load_pem_x509_csr(csr_pem(ID, mine).encode()).public_bytes(Encoding.DER)
    swapped = body.replace(der(mine.public_key()), der(theirs.public_key()))
    assert swapped != body
    with pytest.raises(MalformedError, match="csr-signature"):
        check_csr(x509.load_der_x509_csr(swapped).public_bytes(Encoding.PEM).decode(), ID)


@pytest.mark.parametrize("text", ["", "x", "\x00", "é", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"])
def test_refuses_what_is_no_request(text: str) -> None:
    with pytest.raises(MalformedError, match="csr-form"):
        check_csr(text, ID)


def test_refuses_a_mebibyte_without_parsing_it() -> None:
    with pytest.raises(MalformedError, match="csr-size"):
        check_csr(csr_pem(ID, KEY) + "\n" * (1024 * 1024), ID)
    assert len(csr_pem(ID, KEY)) < MAX_CSR_BYTES / 4


BODY = x509.load_pem_x509_csr(csr_pem(ID, KEY).encode()).public_bytes(Encoding.DER)


@example([(9, 1)])
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_changed_at_random_never_yield_another_key(edits: list[tuple[int, int]]) -> None:
    """Whatever is done to a signed request: it is refused with a named check, or it still is that request."""
    body = bytearray(BODY)
    for position, value in edits:
        body[position % len(body)] = value
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.encodebytes(bytes(body)).decode()}-----END CERTIFICATE REQUEST-----\n"
    try:
        key = check_csr(pem, ID)
    except MalformedError:
        return
    assert der(key) == der(KEY.public_key())
