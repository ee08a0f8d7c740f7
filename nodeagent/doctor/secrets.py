"""Takes what must stay secret out of a text that is to be shown to others."""

import re
from typing import Final

REMOVED: Final = "[removed]"
_PEM: Final = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
# A name is looked at from its beginning only, and no further than a name goes: a long line must not take long.
_NAMED: Final = re.compile(
    r"""(?ix) ((?<![a-z0-9_.-]) [a-z0-9_.-]{0,64}? (?:token|secret|password|passwd|private_?key|api_?key|credential) [a-z0-9_.-]{0,64}
        ["']? \s{0,8} [:=] \s{0,8})
        ("(?:[^"\\]|\\.)*" | '[^']*' | [^\s,;}\]]+)"""
)
_JOIN: Final = re.compile(r"\b[0-9a-f]{6,64}\.[A-Za-z0-9_-]{20,}\b")
"""A join token: its id, and what proves it."""


def scrubbed(text: str) -> str:
    """The text without private keys, tokens and passwords, in whatever they are written."""
    text = _PEM.sub(f"-----BEGIN \\1-----{REMOVED}", text)
    for pattern in (_JWT, _JOIN):
        text = pattern.sub(REMOVED, text)
    text = _BEARER.sub(rf"\1 {REMOVED}", text)
    return _NAMED.sub(rf"\1{REMOVED}", text)
