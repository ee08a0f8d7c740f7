"""Checks of RateLimit, and the reading of what requests are counted apart by."""

from collections.abc import Iterator
from enum import Enum
from typing import Final

from msgspec import Struct

from control.kinds.rate_limits import Limit, RateLimit, RateLimitRule, Scope
from control.validation.core_checks import Path, attempt
from control.validation.finding import Remark
from control.validation.policy_checks import rule_remarks
from control.validation.statuses import REFUSING
from control.validation.token_checks import header_name

MAX_RULES: Final = 32
_MAX_KEYS: Final = 5
_MAX_REQUESTS: Final = 1_000_000_000


class Counted(Enum):
    """What requests may be counted apart by."""

    PRINCIPAL = "source.principal"
    NAMESPACE = "source.namespace"
    ADDRESS = "remote.ip"
    PATH = "request.path"
    HEADER = "request.headers"
    CLAIM = "request.auth.claims"


class CountKey(Struct, frozen=True):
    """One of the keys; `names`: of the header (lower case), or those that lead to the claim."""

    of: Counted
    names: tuple[str, ...] = ()


def count_key(text: str) -> CountKey:
    """A key as rules write it; raises ValueError."""
    base, bracket, rest = text.partition("[")
    try:
        of = Counted(base)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is none of {', '.join(_WORDS)}") from None
    if (of in _NAMED) is not bool(bracket) or (bracket and not rest.endswith("]")):
        raise ValueError(f"{text[:80]!r} is none of {', '.join(_WORDS)}")
    if of is Counted.HEADER:
        return CountKey(of, (header_name(rest[:-1]).lower(),))
    names = tuple(rest[:-1].split("][")) if bracket else ()
    if not all(name.isprintable() and name and not set(name) & set("[]") for name in names):
        raise ValueError(f"{text[:80]!r} names no claim")
    return CountKey(of, names)


def rate_limit_remarks(item: RateLimit) -> Iterator[Remark]:
    spec = item.spec
    if not spec.target_refs:
        yield Remark(("spec", "targetRefs"), "names nothing", "name a Service, ServiceEntry, Gateway or GatewayClass")
    if spec.status not in REFUSING:
        yield Remark(("spec", "status"), f"{spec.status} is no status that refuses: 400 to 599, of those that have a name")
    if not spec.rules:
        yield Remark(("spec", "rules"), "limits nothing", "give it a rule")
    if len(spec.rules) > MAX_RULES:
        yield Remark(("spec", "rules"), f"more than {MAX_RULES} rules", "write several RateLimits")
    for index, rule in enumerate(spec.rules):
        path: Path = ("spec", "rules", index)
        yield from rule_remarks(rule, item.metadata.namespace, path)
        for at, condition in enumerate(rule.conditions or ()):
            if condition.key.startswith("experimental."):
                yield Remark((*path, "when", at, "key"), f"{condition.key[:80]!r} can't be asked")
        yield from _limit_remarks(rule.limit, spec.scope, (*path, "limit"))
        yield from _key_remarks(rule, path)


def _limit_remarks(limit: Limit, scope: Scope, path: Path) -> Iterator[Remark]:
    if not 0 < limit.requests <= _MAX_REQUESTS:
        yield Remark((*path, "requests"), f"must be 1 to {_MAX_REQUESTS}", "an AuthorizationPolicy lets nobody in")
    if not 0 <= limit.burst <= _MAX_REQUESTS:
        yield Remark((*path, "burst"), f"must be 1 to {_MAX_REQUESTS}")
    if limit.burst and scope is Scope.GLOBAL:
        yield Remark((*path, "burst"), "the server counts by windows of time, which know no burst", "leave it out, or use scope: local")


def _key_remarks(rule: RateLimitRule, path: Path) -> Iterator[Remark]:
    if len(rule.by) > _MAX_KEYS:
        yield Remark((*path, "by"), f"more than {_MAX_KEYS} keys")
    for at, text in enumerate(rule.by):
        yield from attempt(count_key, text, (*path, "by", at))
        if text in rule.by[:at]:
            yield Remark((*path, "by", at), f"{text[:80]!r} is there already")


_NAMED: Final = frozenset({Counted.HEADER, Counted.CLAIM})
_WORDS: Final = tuple(f"{one.value}[...]" if one in _NAMED else one.value for one in Counted)
