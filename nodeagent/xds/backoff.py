"""How long to wait before the next try: doubled from try to try, with jitter so that many do not return together."""

import random
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.010
LAST_S: Final = 15.0


class Backoff:
    """Delays from `first_s`, doubled up to `last_s`; each is shortened by up to half. `chance` returns numbers from 0 to 1."""

    def __init__(self, *, first_s: float = FIRST_S, last_s: float = LAST_S, chance: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._chance = chance
        self._next_s = first_s

    def reset(self) -> None:
        """The next delay is the first again."""
        self._next_s = self._first_s

    def next_s(self) -> float:
        """The delay before the next try, in seconds."""
        delay_s = self._next_s
        self._next_s = min(delay_s * 2, self._last_s)
        return delay_s * (1 - self._chance() / 2)
