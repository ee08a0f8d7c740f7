"""Which certificate to ask for next, without I/O or clock: those who wait come first, renewals at half-life, failures after a delay.

Certificates live by the wall clock (`wall_s`, Unix seconds), which may jump; delays between tries by the monotonic one (`now_s`). What
is due is worked out at each look, so that after a jump the next one sees what is true then.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from msgspec import Struct

from nodeagent.identity.certificate import Issued
from nodeagent.xds.backoff import Backoff

FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0
PAUSE_S: Final = 5.0
"""Between a certificate and its renewal, at least: the last ones of an issuer that ends are past half their life when they come."""
LONGEST_WAIT_S: Final = 10.0
"""How long to sleep at most: the wall clock may jump meanwhile."""
JITTER: Final = 0.1
"""Renewal comes up to this part of the lifetime before its half, so that those who started together do not stay together."""


class State(StrEnum):
    WAITING = "waiting"
    """No certificate yet."""
    VALID = "valid"
    REFUSED = "refused"
    """Peers refuse it: revoked, or its root is no longer trusted."""
    EXPIRED = "expired"


class IdentityState(Struct, frozen=True):
    """An identity as `nodeagent certs` shows it; times in Unix seconds. `error` is that of the last try, if it failed."""

    identity: str
    state: State
    not_after_s: float | None
    renew_at_s: float | None
    failures: int
    error: str | None


@dataclass(slots=True)
class _Entry:
    backoff: Backoff
    issued: Issued | None = None
    renew_at_s: float = 0.0
    sound: bool = True
    retry_at_s: float = 0.0
    failures: int = 0
    error: str | None = None
    busy: bool = False

    def state(self, wall_s: float) -> State:
        if self.issued is None:
            return State.WAITING
        if not self.issued.not_before_s <= wall_s < self.issued.not_after_s:
            return State.EXPIRED
        return State.VALID if self.sound else State.REFUSED


class Schedule:
    """The identities that are wanted, and what is to be done for each."""

    def __init__(self, *, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._entries: dict[str, _Entry] = {}

    def want(self, identities: Iterable[str]) -> list[str]:
        """Sets what is wanted; returns the identities that no longer are."""
        wanted = set(identities)
        gone = sorted(self._entries.keys() - wanted)
        for identity in gone:
            del self._entries[identity]
        for identity in sorted(wanted - self._entries.keys()):
            self._entries[identity] = _Entry(Backoff(first_s=FIRST_RETRY_S, last_s=LAST_RETRY_S, chance=self._chance))
        return gone

    def wants(self, identity: str) -> bool:
        return identity in self._entries

    def issued(self, identity: str) -> Issued | None:
        entry = self._entries.get(identity)
        return None if entry is None else entry.issued

    def held(self) -> list[Issued]:
        """Every certificate there is."""
        return [entry.issued for entry in self._entries.values() if entry.issued is not None]

    def start(self, wall_s: float, now_s: float, slots: int) -> list[str]:
        """Marks up to `slots` in all as asked for, the most urgent first; returns the new ones."""
        free = slots - sum(entry.busy for entry in self._entries.values())
        due = [identity for identity, entry in self._entries.items() if not entry.busy and self._due_in_s(entry, wall_s, now_s) <= 0]
        chosen = sorted(due, key=lambda identity: self._urgency(identity, wall_s))[: max(free, 0)]
        for identity in chosen:
            self._entries[identity].busy = True
        return chosen

    def succeeded(self, issued: Issued) -> None:
        """A certificate came and was checked."""
        entry = self._entries[issued.identity]
        lifetime_s = issued.not_after_s - issued.not_before_s
        entry.issued = issued
        entry.renew_at_s = issued.not_before_s + lifetime_s * (0.5 - JITTER * self._chance())
        entry.sound = True
        entry.busy = False
        entry.failures = 0
        entry.error = None
        entry.retry_at_s = 0.0
        entry.backoff.reset()

    def pause(self, identity: str, now_s: float) -> None:
        """The certificate held has just been signed: the next is not asked for at once, unless peers refuse this one."""
        self._entries[identity].retry_at_s = now_s + PAUSE_S

    def failed(self, identity: str, error: str, now_s: float) -> bool:
        """A try failed; what is held stays. Returns whether that is news: not the same as the time before."""
        entry = self._entries.get(identity)
        if entry is None:
            return False
        news = entry.error != error
        entry.busy = False
        entry.failures += 1
        entry.error = error
        entry.retry_at_s = now_s + entry.backoff.next_s()
        return news

    def refused_by_peers(self, identity: str, *, refused: bool) -> None:
        """Trust changed: the certificate held is, or is not, one that peers refuse."""
        entry = self._entries[identity]
        entry.sound = not refused
        if refused and not entry.failures:
            entry.retry_at_s = 0.0

    def retry_now(self) -> None:
        """What failed may be tried at once: the cause has ended."""
        for entry in self._entries.values():
            entry.retry_at_s = 0.0
            entry.backoff.reset()

    def wait_s(self, wall_s: float, now_s: float) -> float:
        """How long nothing needs to be started, at most LONGEST_WAIT_S."""
        waits = (self._due_in_s(entry, wall_s, now_s) for entry in self._entries.values() if not entry.busy)
        return min(max(min(waits, default=LONGEST_WAIT_S), 0.0), LONGEST_WAIT_S)

    def states(self, wall_s: float) -> list[IdentityState]:
        """Sorted by identity."""
        return [
            IdentityState(
                identity=identity,
                state=entry.state(wall_s),
                not_after_s=None if entry.issued is None else entry.issued.not_after_s,
                renew_at_s=None if entry.issued is None else entry.renew_at_s,
                failures=entry.failures,
                error=entry.error,
            )
            for identity, entry in sorted(self._entries.items())
        ]

    def _due_in_s(self, entry: _Entry, wall_s: float, now_s: float) -> float:
        retry_in_s = entry.retry_at_s - now_s
        if entry.state(wall_s) is not State.VALID:
            return retry_in_s
        return max(entry.renew_at_s - wall_s, retry_in_s)

    def _urgency(self, identity: str, wall_s: float) -> tuple[bool, float, str]:
        """A workload without a usable certificate before any renewal; of renewals the one that expires first."""
        entry = self._entries[identity]
        usable = entry.state(wall_s) is State.VALID
        return (usable, entry.issued.not_after_s if usable and entry.issued is not None else entry.failures, identity)
