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
        self._waiting: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._subscribed)

    def need(self, keys: Iterable[str], *, make_room: bool) -> tuple[list[str], list[str]]:
        """Counts each key once more; returns those to subscribe to, and those to unsubscribe from.

        At the limit, the keys that have been idle longest make room, if `make_room`. Where there is no room the key waits: who needs it
        is refused until then.
        """
        for key in keys:
            self._idle.pop(key, None)
            self._counts[key] = self._counts.get(key, 0) + 1
            if key not in self._subscribed:
                self._waiting[key] = None
        return self._admit(make_room=make_room)

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
            self._waiting.pop(key, None)
            if key in self._subscribed:
                self._idle[key] = now + self._linger_s

    def expire(self, now: float) -> tuple[list[str], list[str]]:
        """Takes out the keys that have been idle long enough; returns those to subscribe to instead, and those to unsubscribe from."""
        expired = []
        for key, at_s in self._idle.items():
            if at_s > now:
                break
            expired.append(key)
        given_up = [self._give_up(key) for key in expired]
        fresh, gone = self._admit(make_room=True)
        return fresh, given_up + gone

    def _admit(self, *, make_room: bool) -> tuple[list[str], list[str]]:
        fresh: list[str] = []
        gone: list[str] = []
        while self._waiting:
            if len(self._subscribed) >= self._max_keys:
                if not make_room or not self._idle:
                    break
                gone.append(self._give_up(next(iter(self._idle))))
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._subscribed.add(key)
            fresh.append(key)
        return fresh, gone

    def _give_up(self, key: str) -> str:
        del self._idle[key]
        self._subscribed.discard(key)
        return key
