"""What a collector was told, as trees: who was called for whom."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct


class Span(Struct, frozen=True):
    """One request, as a proxy saw it."""

    trace: str
    key: str
    parent: str
    service: str
    took_ms: float


def read(told: Iterable[Mapping[str, Any]]) -> list[Span]:
    """Of Zipkin's JSON; the service is the host that was asked."""
    return [
        Span(one["traceId"], one["id"], one.get("parentId", ""), _host(one.get("tags", {})), one.get("duration", 0) / 1000) for one in told
    ]


def _host(tags: Mapping[str, str]) -> str:
    return urlsplit(tags.get("http.url", "")).hostname or "?"


def tree(spans: Sequence[Span]) -> list[tuple[int, Span]]:
    """The spans of one trace with their depth, each below its parent; those without one first."""
    keys = {one.key for one in spans}

    def below(parents: Iterable[Span], depth: int) -> Iterable[tuple[int, Span]]:
        for one in sorted(parents, key=lambda span: span.service):
            yield depth, one
            yield from below([child for child in spans if child.parent == one.key], depth + 1)

    return list(below([one for one in spans if one.parent not in keys], 0))
