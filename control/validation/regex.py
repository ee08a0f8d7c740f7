"""Regular expressions, judged by the engine that Envoy runs them with: what is accepted here compiles there, within bounds."""

from typing import Any, Final

import re2

MAX_CHARACTERS: Final = 1024
"""As Istio bounds them."""
MAX_PROGRAM: Final = 8192
"""How large a compiled expression may be, in RE2's instructions."""
ENVOY_MAX_PROGRAM: Final = 1 << 15
"""How large Envoy is told that they may be: also those that are made of texts and lists of objects."""


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options


_OPTIONS: Final = _options()


def regex(text: str) -> str:
    """An expression that is matched against a whole value. Raises ValueError."""
    _compiled(text)
    return text


def substitution(pattern: str, text: str) -> str:
    r"""What replaces the matches of a pattern: text in which `\1` stands for a group, `\0` for all of it. Raises ValueError."""
    groups = int(_compiled(pattern).groups)
    at = 0
    while (at := text.find("\\", at)) >= 0:
        following = text[at + 1 : at + 2]
        if following != "\\" and not (following.isdecimal() and following.isascii()):
            raise ValueError(f"{text[:80]!r}: a \\ must be followed by a digit or another \\")
        if following != "\\" and int(following) > groups:
            raise ValueError(f"{text[:80]!r}: the expression has no group {following}")
        at += 2
    return text


def _compiled(text: str) -> Any:
    if not text:
        raise ValueError("an empty regular expression")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a regular expression of {len(text)} characters: at most {MAX_CHARACTERS}")
    try:
        compiled = re2.compile(text, _OPTIONS)
    except (re2.error, UnicodeError) as error:
        said = error.args[0] if error.args else error
        said = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        raise ValueError(f"{text[:80]!r} is no regular expression of RE2: {said}") from error
    if compiled.programsize > MAX_PROGRAM:
        raise ValueError(f"{text[:80]!r} is too costly: {compiled.programsize} instructions, at most {MAX_PROGRAM}")
    return compiled
