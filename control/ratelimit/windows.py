"""Counters in windows of fixed length, in bounded memory: who sends ever new keys shares a counter with all others who do.

All counters of a unit end together, when its window does, and are thrown away at once.
"""

from collections import Counter
from typing import Final

from control.ratelimit.limits import Unit

MAX_KEYS: Final = 200_000
"""Of each unit."""
SHARE: Final = 4
"""A group may have one in so many of the keys, so that a flood in one leaves room for the others."""
_MAX_GROUPS: Final = 4096
_REST: Final = b"rest"


class Windows:
    """Counts by key. `group`: which rule a key is of; keys beyond its share are counted together, so that a flood never widens a limit."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._windows: dict[Unit, _Window] = {}
        self.overflowed = 0
        """How many requests were counted together with others for want of room."""

    def add(self, unit: Unit, key: bytes, group: bytes, hits: int, now_s: float) -> int:
        """Counts `hits` and gives how many there are in the window of `now_s`."""
        number = int(now_s // unit.seconds)
        window = self._windows.get(unit)
        # A clock that steps back counts on in the window that is there: no budget comes again.
        if window is None or number > window.number:
            window = self._windows[unit] = _Window(number)
        if key not in window.counts and not self._has_room(window, group):
            self.overflowed += 1
            known = group in window.beyond or len(window.beyond) < _MAX_GROUPS
            where, key = window.beyond, group if known else _REST
        else:
            where = window.counts
            if key not in where:
                window.groups[group] += 1
        where[key] = count = where.get(key, 0) + hits
        return count

    def keys(self, now_s: float) -> int:
        """How many keys are kept."""
        live = (window for unit, window in self._windows.items() if window.number >= int(now_s // unit.seconds))
        return sum(len(window.counts) + len(window.beyond) for window in live)

    def _has_room(self, window: "_Window", group: bytes) -> bool:
        return len(window.counts) < self._max_keys and window.groups[group] < max(1, self._max_keys // SHARE)


class _Window:
    def __init__(self, number: int) -> None:
        self.number = number
        self.counts: dict[bytes, int] = {}
        self.groups: Counter[bytes] = Counter()
        self.beyond: dict[bytes, int] = {}
