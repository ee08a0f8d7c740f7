"""What limits do, by RateLimit: read from Envoy's own statistics, whose names hold the names of clusters, and added up without those."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

NAME: Final = "nodemesh_rate_limit_requests_total"
FILTER: Final = r"(^|\.)rate_limit\."
"""Of Envoy's statistics, those of limits."""
_HELP: Final = "Requests at limits: passed, refused, uncounted (refused, since nobody could count), let_go (though nobody could)."
_STATISTIC: Final = re.compile(
    r"(?:.*\.)?rate_limit\.(?P<namespace>[a-z0-9-]+)\.(?P<name>[a-z0-9.-]+)\."
    r"(?:http_local_rate_limit\.(?P<local>ok|rate_limited)|(?P<asked>ok|over_limit|error|failure_mode_allowed))\Z",
    re.ASCII,
)
_RESULTS: Final = {
    "ok": "passed",
    "rate_limited": "refused",
    "over_limit": "refused",
    "error": "uncounted",
    "failure_mode_allowed": "let_go",
}


class _Statistic(Struct, frozen=True):
    name: str = ""
    value: int = 0


class _Statistics(Struct, frozen=True):
    stats: tuple[msgspec.Raw, ...] = ()


_decoder: Final = msgspec.json.Decoder(_Statistics)
_one: Final = msgspec.json.Decoder(_Statistic)


def limit_metrics(answer: bytes) -> bytes:
    """Envoy's answer to `/stats?format=json` as Prometheus text; nothing for one that is none."""
    try:
        found = [_one.decode(raw) for raw in _decoder.decode(answer).stats if b'"histograms"' not in bytes(raw)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return b""
    counts = _counts(found)
    if not counts:
        return b""
    lines = (f'{NAME}{{rate_limit="{limit}",result="{result}"}} {value}\n' for (limit, result), value in sorted(counts.items()))
    return f"# HELP {NAME} {_HELP}\n# TYPE {NAME} counter\n{''.join(lines)}".encode()


def _counts(statistics: Iterable[_Statistic]) -> Counter[tuple[str, str]]:
    """By namespace/name and result."""
    counts: Counter[tuple[str, str]] = Counter()
    for one in statistics:
        found = _STATISTIC.match(one.name)
        if found is None:
            continue
        limit = f"{found['namespace']}/{found['name']}"
        result = _RESULTS[found["local"] or found["asked"]]
        counts[(limit, result)] += one.value
        if result == "let_go":
            # Envoy counts those among its errors, too.
            counts[(limit, "uncounted")] -= one.value
    return counts
