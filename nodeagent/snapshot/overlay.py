"""A persistent map with changes that are collected first and applied in one go."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from nodeagent.snapshot.persistent import PersistentMap

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Overlay(Generic[K, V]):
    """Reads see the changes made so far."""

    __slots__ = ("_base", "_changes")

    def __init__(self, base: PersistentMap[K, V]) -> None:
        self._base = base
        self._changes: dict[K, V | None] = {}

    def get(self, key: K) -> V | None:
        return self._changes[key] if key in self._changes else self._base.get(key)

    def put(self, key: K, value: V | None) -> None:
        """None removes."""
        self._changes[key] = value

    def applied(self) -> PersistentMap[K, V]:
        return self._base.changed(self._changes)


def with_item(items: tuple[V, ...] | None, item: V) -> tuple[V, ...]:
    """The tuple with `item` last and only once."""
    return (*(other for other in items or () if other != item), item)


def without_item(items: tuple[V, ...] | None, item: V) -> tuple[V, ...] | None:
    """The tuple without `item`; None when nothing is left."""
    return tuple(other for other in items or () if other != item) or None
