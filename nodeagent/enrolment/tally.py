"""Totals of connections by what capture made of them: sums of the kernel's counters, which begin anew with rules that were replaced."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from nodeagent.capture.base import OPENLY
from nodeagent.linux.nftables import Counter


class Tallied(StrEnum):
    """What became of connections."""

    OPENLY = "openly"
    """Past the proxy, which was away."""
    OUTSIDE = "outside"
    """Out past the proxy, to a destination that the mesh does not know."""
    EXCLUDED = "excluded"
    """Out past the proxy, as the terms have it."""
    MARKED = "marked"
    """Out to the proxy, by the programs of the workload's cgroup."""


OUTBOUND: Final = (Tallied.OUTSIDE, Tallied.EXCLUDED, Tallied.MARKED)
_COUNTERS: Final[dict[Tallied, tuple[str, ...]]] = {
    Tallied.OPENLY: OPENLY,
    Tallied.OUTSIDE: ("outside",),
    Tallied.EXCLUDED: ("excluded", "past-out"),
    Tallied.MARKED: ("marked",),
}
"""By the names that captures give them."""


class Tally:
    """Since the workload is captured."""

    def __init__(self, counters: Mapping[str, Counter]) -> None:
        self._last: dict[str, int] = {}
        self._totals = dict.fromkeys(Tallied, 0)
        self.add(counters)

    def add(self, counters: Mapping[str, Counter]) -> None:
        """Takes what is counted now."""
        for tallied, names in _COUNTERS.items():
            for name in names:
                now = counters[name].packets if name in counters else 0
                before = self._last.get(name, 0)
                self._totals[tallied] += now - before if now >= before else now
                self._last[name] = now

    def totals(self) -> dict[Tallied, int]:
        return dict(self._totals)
