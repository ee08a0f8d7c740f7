"""The controller's bundle is the whole truth; without one the operator's file and the ends of chains are."""

from cryptography.hazmat.primitives.serialization import Encoding

from meshapi.trust import Revocation, TrustBundle
from nodeagent.identity.trust import Trust
from tests.nodeagent.identity.fakes import START_S
from tests.nodeagent.identity.pki import authority, of_no_version

FILE, BUNDLE, CHAIN = (authority(name, START_S) for name in ("file", "bundle", "chain"))
ID = "spiffe://cluster.local/ns/shop/sa/web"


def trust() -> tuple[Trust, list[tuple[dict[str, str], tuple[Revocation, ...]]]]:
    told: list[tuple[dict[str, str], tuple[Revocation, ...]]] = []
    made = Trust("cluster.local", [FILE.certificate])
    made.watch(lambda roots, revoked: told.append((dict(roots), revoked)))
    return made, told


def test_the_file_holds_until_a_bundle_comes_and_then_no_more() -> None:
    made, told = trust()
    made.apply(TrustBundle("cluster.local", (BUNDLE.der,)))
    assert told == [({"cluster.local": FILE.pem.decode()}, ()), ({"cluster.local": BUNDLE.pem.decode()}, ())]
    made.apply(TrustBundle("cluster.local", (BUNDLE.der,)))
    assert len(told) == 2
    assert made.controller_roots_pem == FILE.pem + BUNDLE.pem


def test_a_bundle_without_roots_trusts_nobody() -> None:
    made, _ = trust()
    made.apply(TrustBundle("cluster.local", ()))
    assert made.roots == ()
    assert made.roots_pem() == {"cluster.local": ""}


def test_a_root_that_cannot_be_read_is_left_out_alone() -> None:
    made, _ = trust()
    made.apply(TrustBundle("cluster.local", (b"garbage", of_no_version(FILE.certificate), BUNDLE.der)))
    assert [root.public_bytes(Encoding.PEM) for root in made.roots] == [BUNDLE.pem]


def test_the_end_of_a_chain_counts_only_without_a_bundle() -> None:
    made, told = trust()
    made.add_chain_root([FILE.certificate])
    made.add_chain_root([CHAIN.certificate])
    made.add_chain_root([CHAIN.certificate])
    assert told[1:] == [({"cluster.local": (FILE.pem + CHAIN.pem).decode()}, ())]
    made.apply(TrustBundle("cluster.local", (BUNDLE.der,)))
    made.add_chain_root([CHAIN.certificate])
    assert made.roots_pem() == {"cluster.local": BUNDLE.pem.decode()}


def test_a_root_that_newer_chains_leave_out_is_trusted_no_more() -> None:
    made, _ = trust()
    made.add_chain_root([CHAIN.certificate, BUNDLE.certificate])
    made.add_chain_root([BUNDLE.certificate])
    assert made.roots_pem() == {"cluster.local": (FILE.pem + BUNDLE.pem).decode()}
    made.add_chain_root([])
    assert made.roots_pem() == {"cluster.local": (FILE.pem + BUNDLE.pem).decode()}, "a chain without a root says nothing about roots"


def test_other_trust_domains_keep_to_themselves() -> None:
    made, _ = trust()
    made.apply(TrustBundle("other.example", (BUNDLE.der,)))
    assert made.roots_pem() == {"cluster.local": FILE.pem.decode(), "other.example": BUNDLE.pem.decode()}
    made.forget("other.example")
    made.forget("never.known")
    assert made.roots_pem() == {"cluster.local": FILE.pem.decode()}


def test_revocation_is_by_the_begin_of_the_certificate() -> None:
    made, _ = trust()
    made.apply(TrustBundle("cluster.local", (BUNDLE.der,), (Revocation(ID, 1000),)))
    assert made.is_revoked(ID, 999)
    assert not made.is_revoked(ID, 1000)
    assert not made.is_revoked(f"{ID}-other", 999)
