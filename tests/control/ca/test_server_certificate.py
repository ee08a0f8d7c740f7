"""The controller's own certificate: its names, when it is renewed, and that its key stays in memory."""

from pathlib import Path

import pytest
from cryptography import x509

from control.ca.authority import Authority
from control.ca.server_certificate import DEFAULT_HOSTNAMES, TTL_S, ServerCertificate, names
from tests.control.fakes import FakeClock


def leaf(certificate: ServerCertificate) -> x509.Certificate:
    return x509.load_pem_x509_certificates(certificate.chain_pem)[0]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def authority(tmp_path: Path, clock: FakeClock) -> Authority:
    return Authority(tmp_path / "ca", trust_domain="cluster.local", own=True, clock=clock)


def test_names_each_once_and_by_kind() -> None:
    found = names((*DEFAULT_HOSTNAMES, "localhost", "mesh.example", "2001:db8::1"))
    assert found.get_values_for_type(x509.DNSName) == ["istiod.istio-system.svc", "nodemesh-controller", "localhost", "mesh.example"]
    assert [str(one) for one in found.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "2001:db8::1"]


@pytest.mark.parametrize("hostname", ["", "a b", "*.example", "a/b", "é", "-a", "a-", "a..b", "A", "a\n", "spiffe://a/ns/b/sa/c", "x" * 64])
def test_what_is_no_hostname(hostname: str) -> None:
    with pytest.raises(ValueError, match="neither a DNS name nor an address"):
        names((hostname,))


def test_is_renewed_with_a_new_key_at_half_its_life(authority: Authority, clock: FakeClock) -> None:
    certificate = ServerCertificate(authority, ("localhost",), clock)
    first, key = leaf(certificate), certificate.key_pem
    clock.now_s += TTL_S / 2 - 1
    assert not certificate.refresh()
    clock.now_s += 1
    assert certificate.refresh()
    assert leaf(certificate).not_valid_after_utc > first.not_valid_after_utc
    assert certificate.key_pem != key


async def test_is_renewed_when_the_issuer_changes(authority: Authority, clock: FakeClock, tmp_path: Path) -> None:
    certificate = ServerCertificate(authority, ("localhost",), clock)
    Authority(tmp_path / "new", trust_domain="cluster.local", own=True, clock=clock)
    for file in (tmp_path / "new").iterdir():
        file.replace(tmp_path / "ca" / file.name)
    assert await authority.refresh()
    assert certificate.refresh()
    leaf(certificate).verify_directly_issued_by(authority.issuer.certificate)
    assert not certificate.refresh()


def test_its_key_is_in_no_file_and_no_repr(authority: Authority, clock: FakeClock, tmp_path: Path) -> None:
    """I7."""
    certificate = ServerCertificate(authority, ("localhost",), clock)
    canaries = certificate.key_pem.decode().splitlines()[1:-1]
    seen = repr(vars(certificate)) + "".join(file.read_text() for file in tmp_path.rglob("*.pem"))
    assert not [canary for canary in canaries if canary in seen]
