"""Two layers of objects as one source: what the first defines, the second can't change; what it no longer defines shows through again.

The first is the user's, the second what the controller itself keeps.
"""

from collections.abc import Iterable

from control.kinds import ObjectKey
from control.source import Change, Reject, Remove, Upsert


class Layers:
    """Pure: changes of either layer in, changes of the whole out."""

    def __init__(self) -> None:
        self._first: set[ObjectKey] = set()
        self._second: dict[ObjectKey, Upsert] = {}

    def defines(self, key: ObjectKey) -> bool:
        """Whether the first layer has it."""
        return key in self._first

    def first(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Of the first layer."""
        return tuple(self._of_first(change) for change in changes)

    def put(self, change: Upsert) -> tuple[Change, ...]:
        """An object of the second layer, new or changed."""
        self._second[change.key] = change
        return () if change.key in self._first else (change,)

    def remove(self, key: ObjectKey) -> tuple[Change, ...]:
        """An object of the second layer is gone."""
        if self._second.pop(key, None) is None or key in self._first:
            return ()
        return (Remove(key),)

    def _of_first(self, change: Change) -> Change:
        match change:
            case Upsert() | Reject():
                self._first.add(change.key)
            case Remove(key):
                self._first.discard(key)
                return self._second.get(key, change)
        return change
