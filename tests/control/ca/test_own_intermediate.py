"""Below an authority that was given: an intermediate of our own if all certificates above allow one, in memory, renewed in time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from control.ca.authority import Authority
from control.ca.issuer import CERTIFICATE_FILE, CHAIN_FILE, KEY_FILE, ROOTS_FILE
from control.ca.leaf import sign_identity, validity
from control.ca.own_root import INTERMEDIATE_LIFETIME, RENEW_INTERMEDIATE_BEFORE, SIGNING_USAGE
from tests.control.fakes import NOW_S, FakeClock, new_key

TD = "cluster.local"
IDENTITY = f"spiffe://{TD}/ns/shop/sa/web"
Signer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]
CONSTRAINTS = x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=[x509.DNSName("example.com")])


def made(
    name: str, above: Signer | None = None, *, path_length: int | None = None, constrained: bool = False, days: int = 3000, key=None
) -> Signer:
    key = key or new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, issuer_key = above or (None, key)
    now = datetime.fromtimestamp(NOW_S, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(SIGNING_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    builder = builder.add_extension(CONSTRAINTS, critical=True) if constrained else builder
    return builder.sign(issuer_key, hashes.SHA256()), key


def give(path: Path, *chain: Signer) -> None:
    """The signer first, the root last, as in the secret `cacerts`."""
    path.mkdir(exist_ok=True)
    texts = [certificate.public_bytes(Encoding.PEM) for certificate, _ in chain]
    key = chain[0][1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, text in ((ROOTS_FILE, texts[-1]), (CERTIFICATE_FILE, texts[0]), (KEY_FILE, key), (CHAIN_FILE, b"".join(texts))):
        (path / name).write_bytes(text)
        (path / name).chmod(0o600)


def given(path: Path, clock: FakeClock | None = None) -> Authority:
    return Authority(path, trust_domain=TD, own=False, clock=clock or FakeClock())


def verify(authority: Authority, now_s: float = NOW_S) -> list[x509.Certificate]:
    """The chain of a leaf, as another implementation finds it."""
    issuer = authority.issuer
    when = validity(asked_s=0, max_ttl_s=3600, revoked_before_s=0, issuer=issuer, now_s=now_s)
    leaf = sign_identity(issuer, new_key().public_key(), IDENTITY, when)
    store = Store(list(issuer.roots))
    return (
        PolicyBuilder()
        .store(store)
        .time(datetime.fromtimestamp(now_s, UTC))
        .build_client_verifier()
        .verify(leaf, list(issuer.intermediates))
        .chain
    )


ROOT = made("root")
MIDDLE = made("middle", ROOT)


@pytest.mark.parametrize(
    "chain",
    [
        (ROOT,),
        (MIDDLE, ROOT),
        (made("issuer", MIDDLE, path_length=1), MIDDLE, ROOT),
        (made("rsa", ROOT, key=rsa.generate_private_key(65537, 2048)), ROOT),
    ],
    ids=["a root", "below a root", "two below a root", "RSA"],
)
def test_each_controller_has_its_own_where_that_is_allowed(tmp_path: Path, chain: tuple[Signer, ...]) -> None:
    give(tmp_path / "ca", *chain)
    first, second = given(tmp_path / "ca"), given(tmp_path / "ca")
    assert first.direct_because == ""
    assert first.issuer.certificate != second.issuer.certificate
    for authority in (first, second):
        assert authority.issuer.intermediates[0] == authority.issuer.certificate
        assert authority.issuer.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
        assert [one.subject for one in verify(authority)[1:]] == [authority.issuer.certificate.subject, *(one.subject for one, _ in chain)]
    assert {path.name for path in (tmp_path / "ca").iterdir()} == {ROOTS_FILE, CERTIFICATE_FILE, KEY_FILE, CHAIN_FILE}, "its key is nowhere"


TIGHT_ROOT, NARROW_ROOT = made("tight", path_length=1), made("narrow", constrained=True)


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        ((made("issuer", ROOT, path_length=0), ROOT), "the path length of CN=issuer is 0"),
        ((made("issuer", TIGHT_ROOT), TIGHT_ROOT), "the path length of CN=tight is 1"),
        ((made("issuer", ROOT, constrained=True), ROOT), "CN=issuer constrains names"),
        ((made("issuer", NARROW_ROOT), NARROW_ROOT), "CN=narrow constrains names"),
    ],
    ids=["path length", "path length of the root", "names", "names of the root"],
)
def test_where_it_is_not_the_given_key_signs_and_that_is_told(
    tmp_path: Path, chain: tuple[Signer, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    give(tmp_path / "ca", *chain)
    authority = given(tmp_path / "ca")
    assert authority.issuer.certificate == chain[0][0]
    assert authority.direct_because == why
    assert why in caplog.text
    assert len(verify(authority)) == 1 + len(chain)


async def test_it_is_renewed_in_time_and_lasts_no_longer_than_what_is_above(tmp_path: Path) -> None:
    give(tmp_path / "ca", MIDDLE, made_root := ROOT)
    clock = FakeClock()
    authority = given(tmp_path / "ca", clock)
    first = authority.issuer
    assert not await authority.refresh()
    clock.now_s += (INTERMEDIATE_LIFETIME - RENEW_INTERMEDIATE_BEFORE).total_seconds() + 60
    assert await authority.refresh()
    assert authority.issuer.certificate != first.certificate
    assert not await authority.refresh()
    assert verify(authority, clock.now_s)
    end_s = made_root[0].not_valid_after_utc.timestamp()
    clock.now_s = end_s - 3600 * 24 * 30
    assert await authority.refresh(), "the last one"
    assert authority.issuer.certificate.not_valid_after_utc.timestamp() == end_s
    assert not await authority.refresh(), "another one would last no longer"


async def test_another_authority_has_another_one_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    give(tmp_path / "ca", MIDDLE, ROOT)
    authority = given(tmp_path / "ca")
    first = authority.issuer
    (tmp_path / "ca" / KEY_FILE).write_bytes(b"garbage")
    assert not await authority.refresh()
    assert authority.issuer is first
    other = made("other")
    give(tmp_path / "ca", made("below", other, path_length=0), other)
    assert await authority.refresh()
    assert authority.issuer.roots == (other[0],)
    assert authority.direct_because == "the path length of CN=below is 0"
