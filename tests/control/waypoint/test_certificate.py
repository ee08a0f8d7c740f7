"""control/waypoint/certificate.py: what comes back is used only if it is exactly what was asked for; the key is kept in private."""

import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from control.ca.authority import Authority
from control.ca.leaf import Validity, sign_identity, sign_leaf
from control.waypoint import certificate
from control.waypoint.certificate import CertificateError, check, new_key

NAME = "spiffe://cluster.local/ns/shop/sa/gate"


class Issuing:
    def __init__(self, path: Path) -> None:
        self.authority = Authority(path / "ca", trust_domain="cluster.local", own=True, clock=time.time)

    @property
    def roots(self) -> bytes:
        return self.authority.issuer.roots_pem

    def chain(self, key: ec.EllipticCurvePrivateKey, name: str = NAME, life_s: int = 600) -> list[str]:
        now_s = int(time.time())
        leaf = sign_identity(self.authority.issuer, key.public_key(), name, Validity(now_s - 60, now_s + life_s))
        return [_pem(leaf), *(one.decode() for one in self.authority.issuer.intermediates_pem), self.roots.decode()]


def _pem(leaf: x509.Certificate) -> str:
    return leaf.public_bytes(Encoding.PEM).decode()


@pytest.fixture
def issuing(tmp_path: Path) -> Issuing:
    return Issuing(tmp_path)


def test_what_was_asked_for(issuing: Issuing) -> None:
    key = new_key()
    svid = check(NAME, issuing.chain(key), key, issuing.roots, time.time())
    assert svid.chain_pem.count("BEGIN CERTIFICATE") == 1 + len(issuing.authority.issuer.intermediates_pem), "without roots"
    assert svid.not_before_s < svid.half_life_s < svid.not_after_s
    assert "PRIVATE" not in repr(svid)


def test_what_was_not(issuing: Issuing, tmp_path: Path) -> None:
    key, now_s = new_key(), time.time()
    other = Issuing(tmp_path / "other")
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(NAME), x509.DNSName("gate")])
    two = sign_leaf(issuing.authority.issuer, key.public_key(), names, Validity(int(now_s) - 60, int(now_s) + 60))
    cases = {
        "another key": (issuing.chain(new_key()), issuing.roots, now_s),
        "another name": (issuing.chain(key, "spiffe://cluster.local/ns/shop/sa/cart"), issuing.roots, now_s),
        "two names": ([_pem(two)], issuing.roots, now_s),
        "another root": (issuing.chain(key), other.roots, now_s),
        "no roots": (issuing.chain(key), b"", now_s),
        "too late": (issuing.chain(key), issuing.roots, now_s + 3600),
        "too early": (issuing.chain(key), issuing.roots, now_s - 3600),
        "nothing": ([], issuing.roots, now_s),
        "garbage": (["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"], issuing.roots, now_s),
    }
    taken = [case for case, (chain, roots, at_s) in cases.items() if takes(chain, key, roots, at_s)]
    assert not taken


def takes(chain: list[str], key: ec.EllipticCurvePrivateKey, roots: bytes, at_s: float) -> bool:
    try:
        check(NAME, chain, key, roots, at_s)
    except CertificateError:
        return False
    return True


def test_it_is_kept_in_private_and_taken_up_if_it_is_still_good(issuing: Issuing, tmp_path: Path) -> None:
    key = new_key()
    svid = check(NAME, issuing.chain(key), key, issuing.roots, time.time())
    certificate.keep(tmp_path, svid)
    (file,) = tmp_path.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert certificate.kept(tmp_path, NAME, issuing.roots, time.time()) == svid
    assert certificate.kept(tmp_path, NAME, issuing.roots, time.time() + 3600) is None
    assert certificate.kept(tmp_path, "spiffe://cluster.local/ns/shop/sa/cart", issuing.roots, time.time()) is None
    file.write_text("{}")
    assert certificate.kept(tmp_path, NAME, issuing.roots, time.time()) is None
