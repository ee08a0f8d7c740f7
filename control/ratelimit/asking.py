"""Questions of Envoys, and the answers: from a request to what is to be counted, and from the counts to a response.

Questions about the mesh's RateLimits say in their first entry what the limit is: for them this server needs no configuration.
"""

from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from google.protobuf.message import DecodeError
from msgspec import Struct

from control.envoy.messages import Message, new
from control.kinds.rate_limits import DOMAIN, LIMIT_ENTRY
from control.ratelimit.config import Domains, rule_for
from control.ratelimit.limits import MAX_REQUESTS, Entry, Limit, Rule, Unit, Unlimited
from control.ratelimit.wire import read_request, text

_RESPONSE: Final = "envoy.service.ratelimit.v3.RateLimitResponse"
_KEY_BYTES: Final = 16
_OVER: Final = "OVER_LIMIT"
MAX_HITS: Final = 1_000_000_000
MAX_DESCRIPTORS: Final = 256
_MAX_DIGITS: Final = 10
_OVERRIDING: Final = {1: Unit.SECOND, 2: Unit.MINUTE, 3: Unit.HOUR, 4: Unit.DAY, 5: Unit.MONTH, 6: Unit.YEAR}
"""By the numbers of envoy.type.v3.RateLimitUnit."""
_STATED_ENTRIES: Final = 3
"""Of a question about a RateLimit: how many entries come from its author, not from the request."""


class MalformedError(ValueError):
    """A question that can't be answered."""


class Ask(Struct, frozen=True):
    """One thing to count: `key` is the same for what is counted together, `group` for what is of one rule."""

    rule: Rule | None
    key: bytes = b""
    group: bytes = b""
    hits: int = 1


def asks(body: bytes, domains: Domains) -> list[Ask]:
    """One for each descriptor of a request; raises MalformedError."""
    try:
        request = read_request(body)
    except DecodeError as error:
        raise MalformedError("no request") from error
    if not request.domain:
        raise MalformedError("a question without domain")
    if not 0 < len(request.descriptors) <= MAX_DESCRIPTORS:
        raise MalformedError(f"a question needs 1 to {MAX_DESCRIPTORS} descriptors")
    domain = text(request.domain)
    found = [_ask(domain, one, request.hits_addend, domains) for one in request.descriptors]
    replaced = {name for one in found if one.rule is not None for name in one.rule.replaces}
    return [Ask(None) if one.rule is not None and one.rule.name in replaced else one for one in found]


def _ask(domain: str, descriptor: Message, addend: int, domains: Domains) -> Ask:
    entries = [(text(one.key), text(one.value)) for one in descriptor.entries]
    hits = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else addend or 1
    rule = _rule(domain, descriptor, entries, domains)
    if rule is None or isinstance(rule, Unlimited):
        return Ask(rule)
    known = entries[:_STATED_ENTRIES] if domain.startswith(DOMAIN) else []
    group = _hash(domain, [*known, *((key, "") for key, _ in entries[len(known) :])])
    # Who changes a limit gives nobody a fresh start.
    counted = entries[1:] if known else entries
    return Ask(rule, _hash(domain, counted), group, min(hits, MAX_HITS))


def _rule(domain: str, descriptor: Message, entries: list[Entry], domains: Domains) -> Rule | None:
    if domain.startswith(DOMAIN):
        return _stated(entries)
    if descriptor.HasField("limit"):
        return _overriding(descriptor.limit)
    return rule_for(domains, domain, entries)


def _stated(entries: list[Entry]) -> Limit:
    key, limit = entries[0] if entries else ("", "")
    number, slash, unit = limit.partition("/")
    if key != LIMIT_ENTRY or not slash or not number.isascii() or not number.isdecimal() or len(number) > _MAX_DIGITS:
        raise MalformedError("a question about a RateLimit that does not say what the limit is")
    try:
        return Limit(min(int(number), MAX_REQUESTS), Unit(unit))
    except ValueError as error:
        raise MalformedError("a RateLimit of an unknown unit") from error


def _overriding(limit: Message) -> Limit:
    try:
        return Limit(limit.requests_per_unit, _OVERRIDING[limit.unit])
    except KeyError as error:
        raise MalformedError("a limit of an unknown unit") from error


def _hash(domain: str, entries: Sequence[Entry]) -> bytes:
    """Of constant size, and another one for every other text: each part says how long it is."""
    made = blake2b(digest_size=_KEY_BYTES)
    for part in (domain, *(one for entry in entries for one in entry)):
        encoded = part.encode("utf-8", "surrogateescape")
        made.update(len(encoded).to_bytes(4, "big"))
        made.update(encoded)
    return made.digest()


class Decision(StrEnum):
    OK = "ok"
    OVER = "over"
    SHADOW = "shadow"
    """Beyond a limit that only looks on."""
    UNLIMITED = "unlimited"
    UNKNOWN = "unknown"
    """There is no rule for it."""


class Answer(Struct, frozen=True):
    """`decisions`: of each descriptor."""

    body: bytes
    decisions: tuple[Decision, ...]


def answer(asked: Sequence[Ask], counts: Sequence[int], now_s: float) -> Answer:
    """`counts`: of each ask how many there are now, those of this request among them; 0 where nothing is counted."""
    decisions = tuple(decision(ask.rule, count) for ask, count in zip(asked, counts, strict=True))
    statuses = [_status(ask.rule, count, word, now_s) for ask, count, word in zip(asked, counts, decisions, strict=True)]
    waits_s = [_rest_s(ask.rule, now_s) for ask, word in zip(asked, decisions, strict=True) if word is Decision.OVER]
    headers = [{"key": "retry-after", "value": str(max(waits_s))}] if waits_s else []
    message = new(_RESPONSE, overall_code=_OVER if waits_s else "OK", statuses=statuses, response_headers_to_add=headers)
    return Answer(bytes(message.SerializeToString()), decisions)


def decision(rule: Rule | None, count: int) -> Decision:
    """What becomes of a request, by one of its descriptors."""
    if rule is None:
        return Decision.UNKNOWN
    if isinstance(rule, Unlimited):
        return Decision.UNLIMITED
    if count <= rule.requests:
        return Decision.OK
    return Decision.SHADOW if rule.shadow else Decision.OVER


def _status(rule: Rule | None, count: int, word: Decision, now_s: float) -> dict[str, object]:
    if not isinstance(rule, Limit):
        return {"code": "OK", **({"limit_remaining": MAX_REQUESTS} if rule is not None else {})}
    return {
        "code": _OVER if word is Decision.OVER else "OK",
        "current_limit": {"name": rule.name, "requests_per_unit": rule.requests, "unit": rule.unit.upper()},
        "limit_remaining": max(0, rule.requests - count),
        "duration_until_reset": {"seconds": _rest_s(rule, now_s)},
    }


def _rest_s(rule: Rule | None, now_s: float) -> int:
    """How long the window of a limit still is."""
    return rule.unit.seconds - int(now_s) % rule.unit.seconds if isinstance(rule, Limit) else 0
