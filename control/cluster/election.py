"""Who of several replicas leads: a Lease, and each replica's own clock. No I/O.

Only what a replica saw itself counts: a lease that has not changed for as long as it lasts, by this replica's own monotonic clock, is
free; the times written in it are for people. A leader counts its time from before it asked, and stops earlier than others may begin:
at no time there are two, as long as clocks run at about the same speed.
"""

from typing import Final

from msgspec import Struct


class Terms(Struct, frozen=True):
    """Seconds: a lease lasts `lease_s`; a leader that could not renew it for `renew_s` stops; each asks every `retry_s`."""

    lease_s: int = 15
    renew_s: float = 10.0
    retry_s: float = 2.0


class Lease(Struct, frozen=True):
    """What is written: `version` is the API server's, and changes with every write."""

    holder: str = ""
    lease_s: int = 0
    transitions: int = 0
    version: str = ""


class Write(Struct, frozen=True):
    """Create the lease (without a version), or replace the one of that version."""

    lease: Lease


_NEVER: Final = float("-inf")


class Election:
    """One replica's part. Times are monotonic seconds."""

    def __init__(self, identity: str, terms: Terms) -> None:
        self._identity = identity
        self._terms = terms
        self._seen = Lease()
        self._seen_s = _NEVER
        self._held_since_ask_s = _NEVER

    def leading(self, now_s: float) -> bool:
        """Whether this replica may act as the leader now."""
        return now_s - self._held_since_ask_s < self._terms.renew_s

    def read(self, lease: Lease | None, now_s: float) -> Write | None:
        """Takes the lease as it is (None: there is none) and says what to write, if this replica should hold it."""
        if lease is None:
            return Write(Lease(self._identity, self._terms.lease_s, 0))
        if lease.version != self._seen.version or self._seen_s == _NEVER:
            self._seen, self._seen_s = lease, now_s
        if lease.holder == self._identity:
            return Write(Lease(self._identity, self._terms.lease_s, lease.transitions, lease.version))
        self._held_since_ask_s = _NEVER
        free = not lease.holder or now_s - self._seen_s >= max(lease.lease_s, 1)
        return Write(Lease(self._identity, self._terms.lease_s, lease.transitions + 1, lease.version)) if free else None

    def written(self, asked_s: float) -> None:
        """A write that was asked for at `asked_s` succeeded."""
        self._held_since_ask_s = asked_s

    def lost(self) -> None:
        """A write was refused: somebody else wrote first."""
        self._held_since_ask_s = _NEVER

    def release(self) -> Lease | None:
        """What to write at the end, so that another one can begin at once; None for who holds nothing."""
        if self._held_since_ask_s == _NEVER:
            return None
        self._held_since_ask_s = _NEVER
        return Lease("", 1, self._seen.transitions, "")
