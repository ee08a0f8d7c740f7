"""How fast one stream is read: a client that sends more waits, by the transport's flow control, and takes no time from others."""

import asyncio
from collections.abc import Callable

RATE_PER_S = 200.0
BURST = 2000
KEYS_PER_REQUEST = 100
"""So many keys cost about as much as a request does in any case: one that names more counts for more."""


class Pace:
    """A bucket of requests that fills with time."""

    def __init__(self, monotonic: Callable[[], float], *, rate_per_s: float = RATE_PER_S, burst: int = BURST) -> None:
        self._monotonic = monotonic
        self._rate_per_s = rate_per_s
        self._burst_s = burst / rate_per_s
        self._paid_until_s = monotonic()

    def wait_s(self, keys: int = 0) -> float:
        """Counts a request that names so many keys, and says how long to wait before reading the next."""
        now_s = self._monotonic()
        cost = 1 + keys // KEYS_PER_REQUEST
        self._paid_until_s = max(self._paid_until_s, now_s - self._burst_s) + cost / self._rate_per_s
        return max(0.0, self._paid_until_s - now_s)

    async def turn(self, keys: int) -> None:
        """Waits as `wait_s` says, and in any case lets others have theirs."""
        await asyncio.sleep(self.wait_s(keys))
