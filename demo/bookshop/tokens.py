"""An issuer of tokens (RFC 7519) for the story; its key lives as long as it."""

import base64
import json
import time
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

LIFE_S: Final = 600
_NUMBER_BYTES: Final = 32


class Issuer:
    """Signs by ES256."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def key_set(self) -> dict[str, Any]:
        """As RequestAuthentication has it in `jwks`."""
        numbers = self._key.public_key().public_numbers()
        x, y = (_text(number.to_bytes(_NUMBER_BYTES, "big")) for number in (numbers.x, numbers.y))
        return {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "one", "x": x, "y": y}]}

    def token(self, **claims: Any) -> str:
        """Valid for ten minutes, unless `claims` say otherwise."""
        said = {"iss": self.name, "sub": "ann", "exp": int(time.time()) + LIFE_S, **claims}
        signed = ".".join(_text(json.dumps(part).encode()) for part in ({"alg": "ES256", "kid": "one", "typ": "JWT"}, said))
        numbers = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_text(b''.join(number.to_bytes(_NUMBER_BYTES, 'big') for number in numbers))}"


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
