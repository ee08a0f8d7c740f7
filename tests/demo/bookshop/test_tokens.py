"""demo/bookshop/tokens.py: tokens that anybody can check by the issuer's key set, and nobody else can make."""

import base64
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from demo.bookshop.tokens import Issuer


def raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify(issuer: Issuer, token: str) -> dict[str, object]:
    """Its claims; raises InvalidSignature if somebody else made it."""
    (key,) = issuer.key_set["keys"]
    x, y = (int.from_bytes(raw(key[name]), "big") for name in ("x", "y"))
    signed, _, signature = token.rpartition(".")
    numbers = (int.from_bytes(raw(signature)[at : at + 32], "big") for at in (0, 32))
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    public.verify(encode_dss_signature(*numbers), signed.encode(), ec.ECDSA(hashes.SHA256()))
    return dict(json.loads(raw(signed.split(".")[1])))


def test_its_own() -> None:
    issuer = Issuer("https://one.example")
    claims = verify(issuer, issuer.token(aud="shop", exp=1))
    assert claims == {"iss": "https://one.example", "sub": "ann", "aud": "shop", "exp": 1}


def test_somebody_elses() -> None:
    issuer, other = Issuer("https://one.example"), Issuer("https://one.example")
    with pytest.raises(InvalidSignature):
        verify(issuer, other.token())
