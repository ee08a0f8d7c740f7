"""What a leaf holds, how long it lives, and that one which holds anything else is not handed out."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from control.ca import leaf as leaf_module
from control.ca.authority import Authority
from control.ca.leaf import BACKDATE_S, DEFAULT_TTL_S, MIN_TTL_S, SigningError, Validity, sign_identity, validity
from tests.control.fakes import NOW_S, FakeClock, new_key

ID = "spiffe://cluster.local/ns/shop/sa/cart"
NOW = int(NOW_S)


@pytest.fixture
def issuer(tmp_path: Path):
    return Authority(tmp_path / "ca", trust_domain="cluster.local", own=True, clock=FakeClock()).issuer


def test_the_profile(issuer) -> None:
    key = new_key()
    made = sign_identity(issuer, key.public_key(), ID, Validity(NOW - 60, NOW + 3600))
    found = made.extensions
    name = found.get_extension_for_class(x509.SubjectAlternativeName)
    usage = found.get_extension_for_class(x509.KeyUsage)
    assert (name.critical, list(name.value)) == (True, [x509.UniformResourceIdentifier(ID)])
    assert not list(made.subject)
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign, usage.value.key_encipherment) == (
        True,
        True,
        False,
        False,
    )
    assert set(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    issuer_id = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert found.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == issuer_id
    assert found.get_extension_for_class(x509.SubjectKeyIdentifier)


def test_a_verifier_that_is_not_ours_takes_it(issuer) -> None:
    made = sign_identity(issuer, new_key().public_key(), ID, Validity(NOW - 60, NOW + 3600))
    verifier = PolicyBuilder().store(Store(list(issuer.roots))).time(datetime.fromtimestamp(NOW, UTC)).build_client_verifier()
    assert verifier.verify(made, list(issuer.intermediates)).subjects == [x509.UniformResourceIdentifier(ID)]


def test_serials_are_random(issuer) -> None:
    serials = {sign_identity(issuer, new_key().public_key(), ID, Validity(NOW, NOW + 60)).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert max(serials).bit_length() > 100


@pytest.mark.parametrize(
    ("asked_s", "lives_s"),
    [(0, DEFAULT_TTL_S), (-5, DEFAULT_TTL_S), (1, MIN_TTL_S), (3600, 3600), (10**9, DEFAULT_TTL_S), (2**63 - 1, DEFAULT_TTL_S)],
)
def test_what_is_asked_is_clipped(issuer, asked_s: int, lives_s: int) -> None:
    when = validity(asked_s=asked_s, max_ttl_s=DEFAULT_TTL_S, revoked_before_s=0, issuer=issuer, now_s=NOW_S)
    assert when == Validity(NOW - BACKDATE_S, NOW + lives_s)


def test_no_leaf_outlives_its_issuer(issuer) -> None:
    end_s = issuer.certificate.not_valid_after_utc.timestamp()
    when = validity(asked_s=0, max_ttl_s=DEFAULT_TTL_S, revoked_before_s=0, issuer=issuer, now_s=end_s - 100)
    assert when.not_after_s == end_s
    with pytest.raises(SigningError, match="expired"):
        validity(asked_s=0, max_ttl_s=DEFAULT_TTL_S, revoked_before_s=0, issuer=issuer, now_s=end_s)


def test_what_is_issued_after_a_revocation_is_not_refused_by_it(issuer) -> None:
    when = validity(asked_s=0, max_ttl_s=DEFAULT_TTL_S, revoked_before_s=NOW - 10, issuer=issuer, now_s=NOW_S)
    assert when.not_before_s == NOW - 10


@pytest.mark.parametrize(
    "other",
    [
        [x509.UniformResourceIdentifier(ID + "x")],
        [x509.UniformResourceIdentifier(ID), x509.DNSName("a.example")],
        [x509.UniformResourceIdentifier(ID), x509.UniformResourceIdentifier(ID)],
    ],
)
def test_a_certificate_that_holds_another_name_is_not_handed_out(issuer, monkeypatch: pytest.MonkeyPatch, other) -> None:
    """I4: whatever went wrong on the way, the certificate as it is read back decides."""
    key = new_key()
    wrong = leaf_module.sign_leaf(issuer, key.public_key(), x509.SubjectAlternativeName(other), Validity(NOW, NOW + 60))

    class Instead:
        @staticmethod
        def load_der_x509_certificate(_der: bytes) -> x509.Certificate:
            return wrong

        def __getattr__(self, name: str) -> object:
            return getattr(x509, name)

    monkeypatch.setattr(leaf_module, "x509", Instead())
    with pytest.raises(SigningError, match="name"):
        sign_identity(issuer, key.public_key(), ID, Validity(NOW, NOW + 60))


def test_a_certificate_for_another_key_is_not_handed_out(issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = sign_identity(issuer, new_key().public_key(), ID, Validity(NOW, NOW + 60))
    monkeypatch.setattr(leaf_module.x509, "load_der_x509_certificate", lambda _der: wrong)
    with pytest.raises(SigningError, match="key"):
        sign_identity(issuer, new_key().public_key(), ID, Validity(NOW, NOW + 60))
