"""What an operator sees of each workload's enrolment, and when a step that failed is tried again."""

from enum import StrEnum

from msgspec import Struct

from nodeagent.linux.nftables import Counter
from nodeagent.runtime.base import LocalWorkload

_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 15.0


class EnrolmentState(StrEnum):
    WAITING = "waiting"
    """Not enrolled yet; `problem` says for what."""
    LISTENING = "listening"
    """Listeners are open; its identity or the proxy is awaited; not captured."""
    CAPTURED = "captured"
    CLOSED = "closed"
    """Captured, but no proxy serves it: its connections are refused."""
    LEAVING = "leaving"


class WorkloadStatus(Struct, frozen=True):
    """One workload. `captured_since_s` is Unix time."""

    workload: LocalWorkload
    state: EnrolmentState
    capture: str
    captured_since_s: float | None = None
    problem: str = ""
    addresses: tuple[str, ...] = ()
    counters: dict[str, Counter] = {}


class Trouble(Struct, frozen=True):
    """A step that failed; it is held back until `retry_at_s` (monotonic clock)."""

    problem: str
    tries: int
    retry_at_s: float

    @classmethod
    def after(cls, former: "Trouble | None", problem: str, now_s: float) -> "Trouble":
        """The next wait is twice the former."""
        tries = former.tries + 1 if former else 1
        return cls(problem, tries, now_s + min(_FIRST_RETRY_S * 2 ** min(tries - 1, 10), _LONGEST_RETRY_S))
