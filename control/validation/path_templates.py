"""Paths of policies that are templates: {*} stands for one segment, {**} for any number, at the end or with segments after it."""

import re
from typing import Final

_OPERATOR: Final = re.compile(r"\{\*\*?\}")
_SEGMENT: Final = re.compile(r"(\{\*\}|\{\*\*\}|[A-Za-z0-9\-._~!$&'()+,;:@=%]+)\Z")


def is_template(text: str) -> bool:
    """Whether a path is a template: one with {*} or {**} in it."""
    return _OPERATOR.search(text) is not None


def check_path(text: str) -> str:
    """A policy's path; raises ValueError for a template that can't be matched: Envoy would end over it, not refuse it."""
    if not is_template(text):
        return text
    if not text.startswith("/"):
        raise ValueError(f"{text[:80]!r}: a template begins with /")
    segments = text[1:].split("/")
    if "" in segments[:-1]:
        raise ValueError(f"{text[:80]!r}: a template has no empty segments")
    for segment in segments:
        if segment and not _SEGMENT.match(segment):
            raise ValueError(f"{text[:80]!r}: {{*}} and {{**}} stand for whole segments, and go with no other *")
    if segments.count("{**}") > 1 or ("{**}" in segments and "{*}" in segments[segments.index("{**}") + 1 :]):
        raise ValueError(f"{text[:80]!r}: one {{**}}, with no {{*}} after it")
    return text
