"""Steps of enrolment that failed: why, and when each is tried again. Times are of the monotonic clock."""

from collections.abc import Container
from typing import Final

from msgspec import Struct

_FIRST_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 15.0


class _Trouble(Struct, frozen=True):
    """The last failure of one workload, which is held back until `retry_at_s`."""

    problem: str
    tries: int
    retry_at_s: float


class Troubles:
    """By workload. Each wait is twice the former, up to a quarter of a minute."""

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}

    def add(self, uid: str, problem: str, now_s: float) -> bool:
        """Notes a failure; whether it is another one than the last."""
        former = self._troubles.get(uid)
        tries = former.tries + 1 if former else 1
        wait_s = min(_FIRST_RETRY_S * 2 ** min(tries - 1, 10), _LONGEST_RETRY_S)
        self._troubles[uid] = _Trouble(problem, tries, now_s + wait_s)
        return former is None or former.problem != problem

    def end(self, uid: str) -> None:
        """It was done; fine if nothing had failed."""
        self._troubles.pop(uid, None)

    def keep(self, *known: Container[str]) -> None:
        """Forgets the workloads that are in none of these."""
        self._troubles = {uid: one for uid, one in self._troubles.items() if any(uid in uids for uids in known)}

    def held_back(self, now_s: float) -> set[str]:
        """Whose steps are not to be tried yet."""
        return {uid for uid, one in self._troubles.items() if now_s < one.retry_at_s}

    def problem(self, uid: str) -> str:
        """What went wrong last; empty for nothing."""
        found = self._troubles.get(uid)
        return found.problem if found else ""

    @property
    def times_s(self) -> list[float]:
        """When something is to be tried again."""
        return [one.retry_at_s for one in self._troubles.values()]
