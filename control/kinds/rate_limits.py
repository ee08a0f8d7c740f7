"""RateLimit, the mesh's own kind: how many requests a waypoint or gateway lets through. Unknown fields are errors: none may be lost."""

from enum import StrEnum
from typing import ClassVar, Final

from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.security import PolicyRule, PolicyTarget

GROUP: Final = "nodemesh.io"
VERSION: Final = f"{GROUP}/v1alpha1"
DOMAIN: Final = f"{GROUP}/"
"""How the domains begin in which the rate limit server is asked about RateLimits; their namespaces and names follow."""
LIMIT_ENTRY: Final = "limit"
"""The first entry of each descriptor there: how many requests may be, as `20/minute`."""


class Unit(StrEnum):
    """What requests are counted per."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        return _SECONDS[self]


_SECONDS: Final = {Unit.SECOND: 1, Unit.MINUTE: 60, Unit.HOUR: 3600, Unit.DAY: 86400}


class Scope(StrEnum):
    LOCAL = "local"
    """Each Envoy counts for itself."""
    GLOBAL = "global"
    """The rate limit server counts for all."""


class OnFailure(StrEnum):
    """What becomes of requests that nobody can count, because no waypoint is there or no server answers."""

    DENY = "deny"
    ALLOW = "allow"


class Limit(Struct, frozen=True, forbid_unknown_fields=True):
    """So many requests in each unit of time. `burst`: how many at once; 0 = as many as `requests`."""

    requests: int
    per: Unit
    burst: int = 0

    def __str__(self) -> str:
        return f"{self.requests}/{self.per}"


class RateLimitRule(PolicyRule, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which requests are counted (as AuthorizationPolicy says it), and apart from each other by what; without `by`, all together."""

    limit: Limit
    by: tuple[str, ...] = ()


class RateLimitSpec(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    target_refs: tuple[PolicyTarget, ...] = ()
    scope: Scope = Scope.LOCAL
    on_failure: OnFailure = OnFailure.DENY
    status: int = 429
    """Of answers to requests beyond the limit."""
    headers: bool = False
    """Whether answers say what the limit is and what is left of it: `x-ratelimit-limit`, `-remaining`, `-reset`."""
    rules: tuple[RateLimitRule, ...] = ()


class RateLimit(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.RATE_LIMIT
    spec: RateLimitSpec = RateLimitSpec()

    @property
    def targets(self) -> tuple[PolicyTarget, ...]:
        return self.spec.target_refs
