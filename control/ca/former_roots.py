"""Roots that were trusted once and are no more: what stands on their certificates is to end, also what was open before.

Kept on disk with those that are trusted, so that a root that goes while nobody looks is missed, too.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from control.ca.authority import Authority
from control.ca.records import RecordFile

SETTLE_S: Final = 2.0
"""Behind a change of the roots: by then everyone refuses new connections by the former ones, and what is ended can't come back by them."""


class Root(Struct, frozen=True, order=True):
    """By the SHA-256 of its certificate, hexadecimal."""

    fingerprint: str
    former: bool = False


def followed(known: Iterable[Root], trusted: Iterable[str]) -> tuple[Root, ...]:
    """What is known once these are the trusted ones; one that comes back is none of the former any more."""
    now = frozenset(trusted)
    former = {one.fingerprint for one in known} - now
    return tuple(sorted([*(Root(one) for one in now), *(Root(one, former=True) for one in former)]))


class FormerRoots:
    """Follows the roots of an authority."""

    def __init__(self, path: Path, authority: Authority) -> None:
        self._file = RecordFile(path, Root)
        self._authority = authority
        self._known = self._file.load()
        self._watchers: list[Callable[[], None]] = []
        self._look()
        authority.on_change(self._look_soon)

    def on_change(self, watcher: Callable[[], None]) -> None:
        self._watchers.append(watcher)

    def all(self) -> tuple[str, ...]:
        """Their fingerprints, in order."""
        return tuple(one.fingerprint for one in self._known if one.former)

    def _look_soon(self) -> None:
        known = {one.fingerprint for one in self._known}
        # One that goes again before the look is not missed.
        self._keep(tuple(sorted([*self._known, *(Root(one) for one in self._trusted() if one not in known)])))
        asyncio.get_running_loop().call_later(SETTLE_S, self._look)

    def _look(self) -> None:
        before = self.all()
        self._keep(followed(self._known, self._trusted()))
        if self.all() != before:
            for watcher in self._watchers:
                watcher()

    def _trusted(self) -> frozenset[str]:
        return frozenset(hashlib.sha256(one).hexdigest() for one in self._authority.issuer.roots_der)

    def _keep(self, known: tuple[Root, ...]) -> None:
        if known != self._known:
            self._file.store(known)
            self._known = known
