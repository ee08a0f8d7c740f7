"""Bundles: what is written is read again, and nothing else passes for one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshapi.bundle import MAX_BYTES, Bundle, BundleError, ControllerPlace, decode_bundle, encode_bundle

GOOD = Bundle(
    version=1,
    node="vm_one_shop_web",
    controller=ControllerPlace("10.0.0.1", 15011, 15012),
    roots_pem="-----BEGIN CERTIFICATE-----",
    token="nmj1.a.b",
    trust_domain="cluster.local",
    cluster="Kubernetes",
    root_namespace="istio-system",
    created_s=1,
    expires_s=2,
)


def test_what_is_written_is_read_again_and_the_token_stays_out_of_logs() -> None:
    assert decode_bundle(encode_bundle(GOOD)) == GOOD
    assert "nmj1" not in repr(GOOD)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("node", "n1"),
        ("node", "vm_one"),
        ("node", "vm_one_shop_web/x"),
        ("trust_domain", "Cluster.Local"),
        ("controller", {"host": "", "certificate_port": 1, "token_port": 1}),
        ("controller", {"host": "a b", "certificate_port": 1, "token_port": 1}),
        ("controller", {"host": "a", "certificate_port": 0, "token_port": 1}),
        ("controller", {"host": "a", "certificate_port": 1, "token_port": 65536}),
        ("controller", {"host": "a", "certificate_port": 1, "token_port": 1, "server_name": "a\nb"}),
        ("token", ""),
        ("token", "a\nb"),
        ("expires_s", "soon"),
        ("more", 1),
    ],
)
def test_what_is_no_bundle(field: str, value: object) -> None:
    raw = msgspec.to_builtins(GOOD) | {field: value}
    with pytest.raises(BundleError):
        decode_bundle(msgspec.json.encode(raw))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bundle_or_an_error(raw: bytes) -> None:
    with pytest.raises(BundleError):
        decode_bundle(raw)


def test_a_long_file_is_not_read() -> None:
    with pytest.raises(BundleError):
        decode_bundle(b" " * (MAX_BYTES + 1))
