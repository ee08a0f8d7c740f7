"""What comes back is used only if it is exactly what was asked for."""

import logging
import ssl
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from nodeagent.identity.certificate import CertificateError, check_issued, check_kept, key_pem, new_key, parse_chain, request_pem
from nodeagent.identity.store import StoredIdentity
from tests.nodeagent.identity.fakes import START_S, svid
from tests.nodeagent.identity.pki import DAY_S, Authority, Leaf, authority, of_no_version

ID = "spiffe://cluster.local/ns/shop/sa/web"
URI = x509.UniformResourceIdentifier(ID)
ROOT = authority("root", START_S)
INTERMEDIATE = authority("intermediate", START_S, ROOT)
OTHER_ROOT = authority("other", START_S)


def test_a_request_names_the_identity_and_nothing_else() -> None:
    request = x509.load_pem_x509_csr(request_pem(new_key(), ID).encode())
    assert request.is_signature_valid
    assert list(request.subject) == []
    [extension] = request.extensions
    assert extension.value == x509.SubjectAlternativeName([URI])


def test_a_good_certificate_is_taken_without_its_root() -> None:
    key = new_key()
    chain = parse_chain([INTERMEDIATE.sign(key.public_key(), svid(ID, START_S)).decode(), INTERMEDIATE.pem.decode(), ROOT.pem.decode()])
    issued = check_issued(ID, chain, key, [ROOT.certificate], START_S)
    assert parse_chain([issued.chain_pem]) == chain[:2]
    assert (issued.not_before_s, issued.not_after_s) == (START_S - 60, START_S - 60 + DAY_S)
    assert check_kept(ID, issued.chain_pem, issued.key_pem, [ROOT.certificate], START_S) == issued


def leaf(*names: x509.GeneralName, begin_s: float = -60, end_s: float = DAY_S, is_ca: bool = False, signs: bool = True) -> Leaf:
    return Leaf(names or (URI,), START_S + begin_s, START_S + end_s, is_ca=is_ca, digital_signature=signs)


def by(issuer: Authority, what: Leaf) -> Callable[[ec.EllipticCurvePublicKey], bytes]:
    return lambda key: issuer.sign(key, what)


def through_a_leaf(key: ec.EllipticCurvePublicKey) -> bytes:
    """A workload's certificate used to sign another."""
    signer = new_key()
    certificate = x509.load_pem_x509_certificate(ROOT.sign(signer.public_key(), leaf()))
    return Authority(certificate, signer).sign(key, leaf()) + certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (by(ROOT, leaf(x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/admin"))), "names 'spiffe"),
        (by(ROOT, leaf(URI, x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/x"))), "not 2 names"),
        (by(ROOT, leaf(URI, x509.DNSName("web.shop"))), "not 2 names"),
        (by(ROOT, leaf(x509.DNSName("web.shop"))), "one URI"),
        (by(ROOT, Leaf((), START_S - 60, START_S + DAY_S, subject=ID)), "subjectAltName|subjectAlternativeName|extension"),
        (by(ROOT, leaf(is_ca=True)), "is a signing certificate"),
        (by(ROOT, leaf(signs=False)), "digitalSignature"),
        (by(ROOT, leaf(end_s=-1)), "is valid from .* and now is"),
        (by(ROOT, leaf(begin_s=60)), "is valid from .* and now is"),
        (by(OTHER_ROOT, leaf()), "does not chain to a trusted root"),
        (by(INTERMEDIATE, leaf()), "does not chain to a trusted root"),
        (through_a_leaf, "does not chain to a trusted root"),
    ],
)
def test_a_certificate_that_is_not_what_was_asked_for_is_refused(make: Callable[[ec.EllipticCurvePublicKey], bytes], error: str) -> None:
    key = new_key()
    with pytest.raises(CertificateError, match=error):
        check_issued(ID, parse_chain([make(key.public_key()).decode()]), key, [ROOT.certificate], START_S)


def test_a_certificate_for_another_key_is_refused() -> None:
    chain = parse_chain([ROOT.sign(new_key().public_key(), svid(ID, START_S)).decode()])
    with pytest.raises(CertificateError, match="another key"):
        check_issued(ID, chain, new_key(), [ROOT.certificate], START_S)


def test_without_roots_nothing_is_accepted() -> None:
    key = new_key()
    chain = parse_chain([ROOT.sign(key.public_key(), svid(ID, START_S)).decode(), ROOT.pem.decode()])
    with pytest.raises(CertificateError, match="no trusted root"):
        check_issued(ID, chain, key, [], START_S)


@pytest.mark.parametrize(
    "text", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é", ROOT.pem.decode() * 11]
)
def test_a_chain_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CertificateError):
        parse_chain([text])


def test_a_certificate_of_a_version_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CertificateError, match="version"):
        parse_chain([ssl.DER_cert_to_PEM_cert(of_no_version(ROOT.certificate))])


def test_no_key_shows_in_an_error_or_a_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = new_key()
    text = key_pem(key)
    canary = text.splitlines()[1]
    chain = ROOT.sign(key.public_key(), svid(ID, START_S)).decode()
    issued = check_issued(ID, parse_chain([chain]), key, [ROOT.certificate], START_S)
    with pytest.raises(CertificateError) as caught:
        check_kept(ID, chain, text.replace("BEGIN PRIVATE KEY", "BEGIN X"), [ROOT.certificate], START_S)
    said = [repr(issued), repr(StoredIdentity(ID, chain, text)), str(caught.value), repr(caught.value.__cause__), caplog.text]
    assert not any(canary in one for one in said)
