"""What a Secret holds becomes Envoy's, in either layout, or is refused with a reason that tells nothing of it."""

from pathlib import Path

import pytest

from control.envoy.credentials import CredentialError, Data, needed, parse, secret
from tests.control.envoy.authority import Authority

NAME = "kubernetes://infra/cart"


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    found: dict[str, Path] = dict(zip(("cert", "key"), authority.issue("cart.example"), strict=True))
    found |= dict(zip(("other", "other-key"), authority.issue("other.example"), strict=True)) | {"root": authority.root}
    return {name: file.read_bytes() for name, file in found.items()}


def made(name: str, **secrets: Data):
    return secret(name, lambda one: secrets.get(one.name) if one.namespace == "infra" and not one.config_map else None)


def test_both_layouts(pems: dict[str, bytes]) -> None:
    for data in ({"tls.crt": pems["cert"], "tls.key": pems["key"]}, {"cert": pems["cert"], "key": pems["key"]}):
        found = made(NAME, cart=data)
        assert found.name == NAME
        assert found.tls_certificate.private_key.inline_bytes == pems["key"]


def test_roots_of_a_secret_of_their_own_or_beside_the_certificate(pems: dict[str, bytes]) -> None:
    pair = {"tls.crt": pems["cert"], "tls.key": pems["key"]}
    own = secret(f"{NAME}-cacert", lambda one: {"cart-cacert": {"ca.crt": pems["root"]}, "cart": pair}.get(one.name))
    beside = made(f"{NAME}-cacert", cart={**pair, "ca.crt": pems["root"]})
    for found in (own, beside):
        assert found.validation_context.trusted_ca.inline_bytes == pems["root"]
        assert not found.HasField("tls_certificate")


def test_what_is_not_there_is_nothing() -> None:
    assert made(NAME) is None
    assert made(f"{NAME}-cacert") is None


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        (NAME, {}, "no certificate with its key"),
        (NAME, {"tls.crt": "cert"}, "no certificate with its key"),
        (NAME, {"tls.crt": "cert", "tls.key": "other-key"}, "not that of its certificate"),
        (NAME, {"tls.crt": "key", "tls.key": "key"}, "certificate is no PEM"),
        (NAME, {"tls.crt": "cert", "tls.key": "cert"}, "key is no PEM"),
        (f"{NAME}-cacert", {"tls.crt": "cert", "tls.key": "key"}, "no roots"),
        (f"{NAME}-cacert", {"ca.crt": "key"}, "roots are no PEM"),
        (f"{NAME}-cacert", {"ca.crt": "root", "ca.crl": "root"}, "list of revoked certificates"),
    ],
)
def test_what_can_not_be_used(pems: dict[str, bytes], name: str, fields: dict[str, str], why: str) -> None:
    with pytest.raises(CredentialError, match=why) as caught:
        made(name, cart={field: pems[which] for field, which in fields.items()})
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize("name", ["default", "ROOTCA", "kubernetes://a", "kubernetes:///a", "kubernetes://a/b/c", "kubernetes://a/"])
def test_other_names_are_nobodys(name: str) -> None:
    assert parse(name) is None
    assert needed(name) == ()
