"""The snapshot in force: updates go in, and those who answer from it are told what they touched."""

from collections.abc import Callable

from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply

Watcher = Callable[[Snapshot, frozenset[str]], None]


class SnapshotStore:
    """Belongs to the event loop's thread."""

    def __init__(self, first: Snapshot) -> None:
        self._current = first
        self._watchers: list[Watcher] = []

    @property
    def current(self) -> Snapshot:
        return self._current

    def apply(self, update: Update) -> None:
        """Makes the next snapshot and tells the watchers, in the order in which they came."""
        applied = apply(self._current, update)
        self._current = applied.snapshot
        for watcher in list(self._watchers):
            watcher(applied.snapshot, applied.touched)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Calls `watcher` after each update; returns what ends it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)
