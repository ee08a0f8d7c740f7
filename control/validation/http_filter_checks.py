"""Checks of what routes tell the filters that requests pass: faults and origins; and of the matches and shares that routes have, too."""

from collections.abc import Iterator
from typing import Final

from control.kinds.routing import CORSPolicy, FaultAbort, FaultDelay, HTTPFault, Percent, StringMatch
from control.validation import http_text
from control.validation.core_checks import Path, attempt
from control.validation.durations import positive, seconds
from control.validation.finding import Remark, warning
from control.validation.regex import regex

GRPC_CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)  # fmt: skip
"""By their numbers."""


def string_match_remarks(match: StringMatch, path: Path, *, absent: bool) -> Iterator[Remark]:
    """`absent`: what is matched may be missing, so that a match of no type means that it is there."""
    if len(match.stated) > 1:
        yield Remark(path, f"{' and '.join(match.stated)} at once", "keep one of them")
    elif not match.stated and not absent:
        yield Remark(path, "says neither exact, prefix nor regex", "say one of them")
    elif match.regex is not None and not (absent and match.presence):
        yield from attempt(regex, match.regex, path)
    else:
        for text in (match.exact, match.prefix):
            if text is not None and (text or not absent):
                yield from attempt(http_text.plain_value, text, path)
    if match.prefix == "":
        yield Remark(path, "an empty prefix matches everything", "leave it out" if not absent else "write {} for: there at all")


def percent_remarks(percent: Percent | None, path: Path) -> Iterator[Remark]:
    """A share of requests."""
    if percent is not None and not 0 <= percent.value <= 100:
        yield Remark((*path, "value"), f"{percent.value} is no percentage: 0 to 100")


def fault_remarks(fault: HTTPFault, path: Path) -> Iterator[Remark]:
    if fault.delay is None and fault.abort is None:
        yield Remark(path, "neither a delay nor an abort", "say one of them")
    if fault.delay is not None:
        here: Path = (*path, "delay")
        if fault.delay.exponential_delay:
            yield Remark((*here, "exponentialDelay"), "is not supported", "use fixedDelay")
        elif not fault.delay.fixed_delay:
            yield Remark(here, "a delay without its length", "say fixedDelay")
        else:
            yield from attempt(positive, fault.delay.fixed_delay, (*here, "fixedDelay"))
        yield from _share_remarks(fault.delay, here)
    if fault.abort is not None:
        here = (*path, "abort")
        if (fault.abort.http_status is None) == (not fault.abort.grpc_status):
            yield Remark(here, "needs httpStatus or grpcStatus, and one of them only")
        if fault.abort.http2_error:
            yield Remark((*here, "http2Error"), "is not supported", "use httpStatus or grpcStatus")
        if fault.abort.http_status is not None and not 200 <= fault.abort.http_status <= 599:
            yield Remark((*here, "httpStatus"), f"{fault.abort.http_status} is no status to answer with: 200 to 599")
        if fault.abort.grpc_status and fault.abort.grpc_status not in GRPC_CODES:
            yield Remark((*here, "grpcStatus"), f"{fault.abort.grpc_status[:40]!r} is no status of gRPC", "such as UNAVAILABLE")
        yield from _share_remarks(fault.abort, here)


def _share_remarks(part: FaultDelay | FaultAbort, path: Path) -> Iterator[Remark]:
    yield from percent_remarks(part.percentage, (*path, "percentage"))
    if part.percentage is None:
        yield warning(path, "without a percentage no request meets it", "say percentage")


def cors_remarks(cors: CORSPolicy, path: Path) -> Iterator[Remark]:
    yield from _origin_remarks(cors, (*path, "allowOrigins"))
    for index, method in enumerate(cors.allow_methods):
        if method not in http_text.METHODS | {"*"}:
            yield Remark((*path, "allowMethods", index), f"{method[:40]!r} is no method", "in capital letters, or *")
    for group, names in (("allowHeaders", cors.allow_headers), ("exposeHeaders", cors.expose_headers)):
        for index, name in enumerate(names):
            yield from attempt(http_text.header_name, name, (*path, group, index))
    if cors.max_age:
        yield from attempt(seconds, cors.max_age, (*path, "maxAge"))
    if cors.unmatched_preflights not in {"UNSPECIFIED", "FORWARD", "IGNORE"}:
        yield Remark((*path, "unmatchedPreflights"), f"{cors.unmatched_preflights[:40]!r} is neither FORWARD nor IGNORE")


def _origin_remarks(cors: CORSPolicy, path: Path) -> Iterator[Remark]:
    for index, origin in enumerate(cors.allow_origins):
        yield from string_match_remarks(origin, (*path, index), absent=False)
        if cors.allow_credentials and (origin.exact == "*" or origin.regex in {".*", ".+"}):
            yield warning((*path, index), "every site may make requests with its visitors' credentials")
