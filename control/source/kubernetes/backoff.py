"""How long to wait before trying again: doubled with each failure, and never quite the same for two who failed at once."""

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.1
LONGEST_S: Final = 30.0


class Backoff:
    """`random` gives numbers from 0 to 1."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._next_s = FIRST_S

    def after_failure(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait now."""
        delay_s = self._next_s * (0.5 + self._random() / 2)
        self._next_s = min(self._next_s * 2, LONGEST_S)
        return max(delay_s, at_least_s)

    def success(self) -> None:
        """What follows is a first failure again."""
        self._next_s = FIRST_S
