"""The authority's files: made on first start, taken from an operator, reloaded, and refused when they do not fit together."""

import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from control.ca.authority import Authority
from control.ca.issuer import CERTIFICATE_FILE, CHAIN_FILE, KEY_FILE, ROOTS_FILE, IssuerError, load_issuer
from control.ca.own_root import INTERMEDIATE_LIFETIME, OWN_ROOT_FILE, RENEW_INTERMEDIATE_BEFORE, ROOT_KEY_FILE, SIGNING_USAGE
from control.ca.private_files import make_private_directory, write_private
from tests.control.fakes import NOW_S, FakeClock, key_pem, new_key

TD = "cluster.local"


def own(path: Path, clock: FakeClock) -> Authority:
    return Authority(path, trust_domain=TD, own=True, clock=clock)


def authority_certificate(name: str, key, issuer=None, issuer_key=None, days: int = 30) -> x509.Certificate:
    now = datetime.fromtimestamp(NOW_S, UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(SIGNING_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(issuer_key or key, hashes.SHA256())
    )


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def write_set(path: Path, *, roots: bytes, certificate: bytes, key: bytes, chain: bytes = b"") -> None:
    path.mkdir(exist_ok=True)
    for name, content in ((ROOTS_FILE, roots), (CERTIFICATE_FILE, certificate), (KEY_FILE, key), (CHAIN_FILE, chain)):
        if content:
            (path / name).write_bytes(content)


def test_first_start_makes_a_root_and_an_intermediate(tmp_path: Path) -> None:
    issuer = own(tmp_path / "ca", FakeClock()).issuer
    root = issuer.roots[0]
    assert len(issuer.roots) == 1
    assert issuer.intermediates == (issuer.certificate,)
    assert root.not_valid_after_utc - root.not_valid_before_utc > timedelta(days=3650)
    assert isinstance(issuer.key.curve, ec.SECP256R1)
    assert issuer.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    issuer.certificate.verify_directly_issued_by(root)


def test_every_file_is_private(tmp_path: Path) -> None:
    """I7: files 0600 in a directory 0700."""
    own(tmp_path / "ca", FakeClock())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ca").iterdir()}
    assert set(modes) == {ROOTS_FILE, CERTIFICATE_FILE, KEY_FILE, CHAIN_FILE, ROOT_KEY_FILE, OWN_ROOT_FILE}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_a_directory_that_others_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="0700"):
        make_private_directory(tmp_path / "ca")


def test_a_private_file_is_replaced_whole_and_through_no_link(tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "key", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    (tmp_path / ".key.new").symlink_to(elsewhere)
    write_private(target, b"secret")
    assert target.read_bytes() == b"secret"
    assert elsewhere.read_bytes() == b"theirs"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_second_start_keeps_what_is_there(tmp_path: Path) -> None:
    first = own(tmp_path / "ca", FakeClock()).issuer
    second = own(tmp_path / "ca", FakeClock()).issuer
    assert second.roots == first.roots
    assert second.certificate == first.certificate


async def test_the_intermediate_is_renewed_in_time_below_the_same_root(tmp_path: Path) -> None:
    clock = FakeClock()
    authority = own(tmp_path / "ca", clock)
    first = authority.issuer
    clock.now_s += (INTERMEDIATE_LIFETIME - RENEW_INTERMEDIATE_BEFORE).total_seconds() + 3600
    assert await authority.refresh()
    assert authority.issuer.roots == first.roots
    assert authority.issuer.certificate != first.certificate
    assert not await authority.refresh()


async def test_broken_files_are_not_mended_again_and_again(tmp_path: Path) -> None:
    """Near the end of the intermediate, with roots that can't be read: one new pair, and the authority in force stays."""
    clock = FakeClock()
    authority = own(tmp_path / "ca", clock)
    before = authority.issuer
    clock.now_s += (INTERMEDIATE_LIFETIME - RENEW_INTERMEDIATE_BEFORE).total_seconds() + 3600
    (tmp_path / "ca" / ROOTS_FILE).write_bytes(b"garbage")
    keys = set()
    for _ in range(5):
        assert not await authority.refresh()
        keys.add((tmp_path / "ca" / KEY_FILE).read_bytes())
        clock.now_s += 1
    assert len(keys) == 1
    assert authority.issuer is before
    assert ROOTS_FILE in (authority.reload_error or "")


def test_a_damaged_own_root(tmp_path: Path) -> None:
    clock = FakeClock()
    own(tmp_path / "ca", clock)
    (tmp_path / "ca" / OWN_ROOT_FILE).write_bytes(b"garbage")
    clock.now_s += 300 * 86400
    with pytest.raises(IssuerError, match=OWN_ROOT_FILE):
        own(tmp_path / "ca", clock)


def test_a_crash_between_key_and_certificate_is_mended(tmp_path: Path) -> None:
    clock = FakeClock()
    root = own(tmp_path / "ca", clock).issuer.roots
    (tmp_path / "ca" / KEY_FILE).write_bytes(key_pem(new_key()))
    assert own(tmp_path / "ca", clock).issuer.roots == root


def test_a_lost_root_key_is_not_papered_over(tmp_path: Path) -> None:
    """A new root in its place would cut every node off."""
    clock = FakeClock()
    own(tmp_path / "ca", clock)
    (tmp_path / "ca" / ROOT_KEY_FILE).unlink()
    clock.now_s += 400 * 86400
    with pytest.raises(IssuerError, match="root's key is missing"):
        own(tmp_path / "ca", clock)


def test_a_given_key_that_others_can_read_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path / "ca", roots=pem(ROOT), certificate=pem(ROOT), key=key_pem(KEY))
    (tmp_path / "ca" / KEY_FILE).chmod(0o644)
    assert load_issuer(tmp_path / "ca", NOW_S)
    assert "0600" in caplog.text
    caplog.clear()
    (tmp_path / "ca" / KEY_FILE).chmod(0o600)
    assert load_issuer(tmp_path / "ca", NOW_S)
    assert caplog.text == ""


def test_a_given_hierarchy_with_several_roots(tmp_path: Path) -> None:
    root_key, middle_key, key, other = new_key(), new_key(), new_key(), new_key()
    root, other_root = authority_certificate("root", root_key), authority_certificate("other", other)
    middle = authority_certificate("middle", middle_key, root, root_key)
    certificate = authority_certificate("issuer", key, middle, middle_key)
    # As Istio's own make file writes it: the chain file holds the signing certificate, what is above it, and the root.
    write_set(
        tmp_path / "ca", roots=pem(other_root, root), certificate=pem(certificate), key=key_pem(key), chain=pem(certificate, middle, root)
    )
    issuer = load_issuer(tmp_path / "ca", NOW_S)
    assert issuer.roots == (other_root, root)
    assert issuer.intermediates == (certificate, middle)


def test_a_root_that_signs_itself_has_no_intermediates(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = authority_certificate("root", key)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    write_set(tmp_path / "ca", roots=pem(root), certificate=pem(root), key=private)
    assert load_issuer(tmp_path / "ca", NOW_S).intermediates == ()


def leaf_like(key) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
    now = datetime.fromtimestamp(NOW_S, UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(5)
    return builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())


KEY, OTHER = new_key(), new_key()
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 -- what must be refused
ROOT = authority_certificate("root", KEY)
BAD = {
    "not the key": ({"roots": pem(ROOT), "certificate": pem(ROOT), "key": key_pem(OTHER)}, "is not the key"),
    "no root above": (
        {"roots": pem(authority_certificate("other", OTHER)), "certificate": pem(ROOT), "key": key_pem(KEY)},
        "ends in no root",
    ),
    "no authority": ({"roots": pem(leaf_like(KEY)), "certificate": pem(leaf_like(KEY)), "key": key_pem(KEY)}, "no certificate authority"),
    "expired": (
        {
            "roots": pem(authority_certificate("old", KEY, days=0)),
            "certificate": pem(authority_certificate("old", KEY, days=0)),
            "key": key_pem(KEY),
        },
        "not now",
    ),
    "no key": ({"roots": pem(ROOT), "certificate": pem(ROOT), "key": b"x"}, "no unencrypted private key"),
    "no certificate": ({"roots": pem(ROOT), "certificate": b"x", "key": key_pem(KEY)}, CERTIFICATE_FILE),
    "a short RSA key": (
        {
            "roots": pem(ROOT),
            "certificate": pem(ROOT),
            "key": WEAK.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        },
        "2048",
    ),
}


@pytest.mark.parametrize(("files", "why"), BAD.values(), ids=BAD.keys())
def test_files_that_make_no_authority(tmp_path: Path, files, why: str) -> None:
    write_set(tmp_path / "ca", **files)
    with pytest.raises(IssuerError, match=why):
        load_issuer(tmp_path / "ca", NOW_S + 1)


async def test_a_bad_reload_keeps_the_old_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path / "ca", roots=pem(ROOT), certificate=pem(ROOT), key=key_pem(KEY))
    authority = Authority(tmp_path / "ca", trust_domain=TD, own=False, clock=FakeClock())
    changes: list[int] = []
    authority.on_change(lambda: changes.append(1))
    before = authority.issuer
    (tmp_path / "ca" / ROOTS_FILE).write_bytes(b"garbage")
    assert not await authority.refresh()
    assert authority.issuer is before
    assert ROOTS_FILE in (authority.reload_error or "")
    assert "stays" in caplog.text

    second = authority_certificate("second", OTHER)
    (tmp_path / "ca" / ROOTS_FILE).write_bytes(pem(ROOT, second))
    assert await authority.refresh()
    assert authority.issuer.roots == (ROOT, second)
    assert authority.reload_error is None
    assert changes == [1]


async def test_files_that_could_not_be_used_are_tried_again_though_they_did_not_change(tmp_path: Path) -> None:
    write_set(tmp_path / "ca", roots=pem(ROOT), certificate=pem(ROOT), key=key_pem(KEY))
    clock = FakeClock()
    authority = Authority(tmp_path / "ca", trust_domain=TD, own=False, clock=clock)
    second = authority_certificate("second", OTHER)
    write_set(tmp_path / "ca", roots=pem(second), certificate=pem(second), key=key_pem(OTHER))
    clock.now_s = second.not_valid_before_utc.timestamp() - 1  # as well: no descriptor was free just then
    assert not await authority.refresh()
    clock.now_s = NOW_S
    assert await authority.refresh(), "the root that was taken out is trusted as long as this does not happen"
    assert (authority.issuer.roots, authority.reload_error) == ((second,), None)


async def test_files_that_vanish_keep_the_old(tmp_path: Path) -> None:
    write_set(tmp_path / "ca", roots=pem(ROOT), certificate=pem(ROOT), key=key_pem(KEY))
    authority = Authority(tmp_path / "ca", trust_domain=TD, own=False, clock=FakeClock())
    before = authority.issuer
    shutil.rmtree(tmp_path / "ca")
    assert not await authority.refresh()
    assert authority.issuer is before


def test_no_key_shows_in_a_message_or_a_repr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """I7, with a canary: a key file that is damaged, and an issuer that is printed."""
    canary = "c4naryc4naryc4nary"
    write_set(tmp_path / "ca", roots=pem(ROOT), certificate=pem(ROOT), key=f"-----BEGIN PRIVATE KEY-----\n{canary}\n".encode())
    with pytest.raises(IssuerError) as refused:
        load_issuer(tmp_path / "ca", NOW_S)
    assert refused.value.__cause__ is None
    assert canary not in str(refused.value) + caplog.text
    write_set(tmp_path / "ca", roots=pem(ROOT), certificate=pem(ROOT), key=key_pem(KEY))
    issuer = load_issuer(tmp_path / "ca", NOW_S)
    secret = f"{KEY.private_numbers().private_value}"
    assert secret not in repr(issuer)
    assert "key=" not in repr(issuer)
