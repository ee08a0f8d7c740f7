"""Durations as resources write them: `5s`, `1.5h`, `2m30s`, `100ms`."""

import re
from typing import Final

_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|ns|h|m|s)")
_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
MAX_S: Final = 3_155_760_000
"""A hundred years. Envoy refuses what it can't count in nanoseconds, and some of its fields hold 32 bits of seconds."""
LEAST_S: Final = 0.001


def seconds(text: str) -> float:
    """The length of a duration; raises ValueError for what is none, and for one that is negative."""
    found = _PART.findall(text) if len(text) <= 64 else []
    if not found or "".join(number + unit for number, unit in found) != text:
        raise ValueError(f"{text[:80]!r} is no duration: write 5s, 1.5h or 100ms")
    total_s = sum(float(number) * _UNITS_S[unit] for number, unit in found)
    if total_s > MAX_S:
        raise ValueError(f"{text[:80]!r} is too long")
    return total_s


def positive(text: str) -> float:
    """Seconds of a duration that must be a millisecond at least: Envoy counts in those. Raises ValueError."""
    found = seconds(text)
    if found < LEAST_S:
        raise ValueError(f"{text[:40]} is less than a millisecond")
    return found


def pause(text: str) -> float:
    """Seconds of a duration that may also be 0s, which means none. Raises ValueError."""
    return seconds(text) and positive(text)
