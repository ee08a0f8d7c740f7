"""So many requests in some time, as RateLimit says it: per second, minute, hour or day, and never more than it was."""

import re
from typing import Any, Final

from control.convert.targets import ConversionError, Manifest

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)\Z")
_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_UNITS: Final = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000))


def limit_of(quota: Manifest, charge: int) -> tuple[Manifest, str]:
    """The limit of a quota of which each request uses `charge` up, and a note if it is another one. Raises ConversionError."""
    amount = _amount(quota.get("maxAmount")) // charge
    length_ms = duration_ms(quota.get("validDuration"))
    stated = f"{quota.get('maxAmount')} in {quota.get('validDuration')}"
    for unit, unit_ms in _UNITS:
        if unit_ms > length_ms:
            continue
        requests = amount * unit_ms // length_ms
        if requests:
            note = "" if unit_ms == length_ms and charge == 1 else f"{stated} became {requests} per {unit}"
            return {"requests": requests, "per": unit}, note
    raise ConversionError(f"{stated} is less than one request in any unit that is not longer: say it per second, minute, hour or day")


def rate(limit: Manifest) -> float:
    """Requests in a second, to compare."""
    return float(limit["requests"]) / dict(_UNITS)[limit["per"]]


def duration_ms(value: Any) -> int:
    """Of the form that Mixer takes; raises ConversionError."""
    found = _DURATION.match(value) if isinstance(value, str) else None
    length_ms = round(float(found.group(1)) * _MS[found.group(2)]) if found is not None else 0
    if length_ms <= 0:
        raise ConversionError(f"validDuration {str(value)[:40]!r} is no time: a quota that never comes again has no new form")
    return length_ms


def _amount(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdecimal() or int(text[:12]) == 0:
        raise ConversionError(f"maxAmount {text[:40]!r} is no number of requests")
    return min(int(text[:12]), 1_000_000_000)
