"""How long enrolment waits for what, and the one wait that is measured from the proxy's leaving."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """In seconds."""

    drain_s: float = 30.0
    """What a released workload's open connections have."""
    identity_deadline_s: float = 5.0
    """A workload that could not be served by then is captured all the same, and so closed: want of a certificate opens nothing."""
    resync_s: float = 10.0
    """How often the kernel is asked whether captures are still as they should be."""
    open_after_s: float = 1.0
    """How long the proxy must be away until workloads that are to fail open do: the next one comes sooner, and connections wait for it."""


@dataclass(slots=True)
class Absence:
    """Of the proxy. Times are of the monotonic clock."""

    since_s: float | None
    """None while it is there."""

    def begins(self, now_s: float) -> None:
        """The proxy is gone; fine if it was."""
        self.since_s = now_s if self.since_s is None else self.since_s

    def ends(self) -> None:
        self.since_s = None

    def until_s(self, length_s: float) -> float | None:
        """When it has lasted so long; None while the proxy is there."""
        return None if self.since_s is None else self.since_s + length_s

    def has_lasted(self, length_s: float, now_s: float) -> bool:
        return self.since_s is not None and now_s >= self.since_s + length_s
