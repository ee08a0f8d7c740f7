"""A public key that nobody has the private one of, for issuers whose keys can't be had: their tokens are refused like any that are forged.

The point is made from a text by hashing until one lies on the curve P-256, so that its logarithm is known to nobody; a key that was
generated and thrown away would have to be believed in, and would differ from one start of the controller to the next.
"""

import base64
import hashlib
import json
from functools import cache
from typing import Final

_P: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B: Final = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_SEED: Final = b"nodemesh: keys of this issuer can not be had"


@cache
def nobodys_key_set() -> str:
    """A JSON Web Key Set (RFC 7517) that verifies nothing."""
    counter = 0
    while True:
        x = int.from_bytes(hashlib.sha256(_SEED + counter.to_bytes(4, "big")).digest(), "big") % _P
        squared = (pow(x, 3, _P) - 3 * x + _B) % _P
        # P is 3 modulo 4: this is a root if there is one.
        y = pow(squared, (_P + 1) // 4, _P)
        if y * y % _P == squared:
            return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "nobody", "x": _text(x), "y": _text(y)}]})
        counter += 1


def _text(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
