"""How many requests there may be in each window of time."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

MAX_REQUESTS: Final = 2**32 - 1
"""What Envoy's protocol can say."""


class Unit(StrEnum):
    """The lengths of windows. They begin with the epoch, so that all servers have the same ones."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"

    @property
    def seconds(self) -> int:
        return _SECONDS[self]


_SECONDS: Final = {
    Unit.SECOND: 1,
    Unit.MINUTE: 60,
    Unit.HOUR: 3600,
    Unit.DAY: 86400,
    Unit.WEEK: 7 * 86400,
    # As the reference server has them.
    Unit.MONTH: 30 * 86400,
    Unit.YEAR: 365 * 86400,
}


class Limit(Struct, frozen=True):
    """`shadow`: what is beyond it is counted, and let through. `replaces`: limits of these names do not hold beside it."""

    requests: int
    unit: Unit
    shadow: bool = False
    name: str = ""
    replaces: tuple[str, ...] = ()


class Unlimited(Struct, frozen=True):
    """A rule that says that there is no limit; it has a place among those that replace others."""

    name: str = ""
    replaces: tuple[str, ...] = ()


Rule = Limit | Unlimited
Entry = tuple[str, str]
"""Key and value of an entry of a descriptor, of which Envoy sends one for each thing that it has to ask about."""
