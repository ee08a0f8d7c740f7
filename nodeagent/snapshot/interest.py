"""Which keys are asked of the controller: counted by those who need them, and kept for a while after the last one."""

from collections.abc import Collection, Iterable
from typing import Final

LINGER_S: Final = 600.0
"""What an idle workload calls again within this time is still known, even if the controller has gone meanwhile."""
MAX_KEYS: Final = 65536


class Interest:
    """Sans-IO. Times are of the monotonic clock, in seconds."""

    def __init__(self, *, linger_s: float = LINGER_S, max_keys: int = MAX_KEYS) -> None:
        self._linger_s = linger_s
        self._max_keys = max_keys
        self._counts: dict[str, int] = {}
        self._idle: dict[str, float] = {}
        self._subscribed: set[str] = set()

    def __len__(self) -> int:
        return len(self._subscribed)

    def need(self, keys: Iterable[str], *, make_room: bool) -> tuple[list[str], list[str]]:
        """Counts each key once more; returns those to subscribe to, and those to unsubscribe from.

        At the limit, the keys that have been idle longest make room, if `make_room`. Where there is no room nothing is subscribed: who
        needs the key stays refused.
        """
        fresh: list[str] = []
        gone: list[str] = []
        for key in keys:
            self._idle.pop(key, None)
            self._counts[key] = self._counts.get(key, 0) + 1
            if key in self._subscribed:
                continue
            if make_room and len(self._subscribed) >= self._max_keys and self._idle:
                gone.append(self._give_up(next(iter(self._idle))))
            if len(self._subscribed) < self._max_keys:
                self._subscribed.add(key)
                fresh.append(key)
        return fresh, gone

    def remember(self, keys: Collection[str], now: float) -> None:
        """Keys that an earlier run of the agent was subscribed to: kept for a while, so that what needs them can come back."""
        for key in keys:
            self._subscribed.add(key)
            if key not in self._counts:
                self._idle[key] = now + self._linger_s

    def drop(self, keys: Iterable[str], now: float) -> None:
        """Counts each key once less; one that nobody needs becomes idle."""
        for key in keys:
            count = self._counts[key] - 1
            if count:
                self._counts[key] = count
                continue
            del self._counts[key]
            if key in self._subscribed:
                self._idle[key] = now + self._linger_s

    def expire(self, now: float) -> list[str]:
        """Takes out the keys that have been idle long enough; returns those to unsubscribe from."""
        expired = []
        for key, at_s in self._idle.items():
            if at_s > now:
                break
            expired.append(key)
        return [self._give_up(key) for key in expired]

    def _give_up(self, key: str) -> str:
        del self._idle[key]
        self._subscribed.discard(key)
        return key
