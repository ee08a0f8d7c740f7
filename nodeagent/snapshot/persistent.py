"""An immutable map whose changed copy shares all but the touched parts with the original."""

from collections.abc import Hashable, ItemsView, Iterator, Mapping
from itertools import chain
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SHARDS: Final = 256
"""A change copies one shard: 40 entries of a map of 10,000."""


class PersistentMap(Generic[K, V]):
    """A map in shards by hash; `changed` copies only the shards that it touches. Values are never None."""

    __slots__ = ("_shards", "_size")

    def __init__(self) -> None:
        empty: dict[K, V] = {}  # one shared by all shards: shards are never changed in place
        self._shards: tuple[dict[K, V], ...] = (empty,) * SHARDS
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: K) -> bool:
        return key in self._shards[hash(key) % SHARDS]

    def get(self, key: K) -> V | None:
        return self._shards[hash(key) % SHARDS].get(key)

    def __iter__(self) -> Iterator[K]:
        return chain.from_iterable(self._shards)

    def items(self) -> Iterator[tuple[K, V]]:
        views: Iterator[ItemsView[K, V]] = (shard.items() for shard in self._shards)
        return chain.from_iterable(views)

    def values(self) -> Iterator[V]:
        return chain.from_iterable(shard.values() for shard in self._shards)

    def changed(self, changes: Mapping[K, V | None]) -> "PersistentMap[K, V]":
        """A copy with `changes` applied; None removes a key."""
        if not changes:
            return self
        fresh: dict[int, dict[K, V]] = {}
        size = self._size
        for key, value in changes.items():
            number = hash(key) % SHARDS
            if number not in fresh:
                fresh[number] = dict(self._shards[number])
            shard = fresh[number]
            size -= len(shard)
            if value is None:
                shard.pop(key, None)
            else:
                shard[key] = value
            size += len(shard)
        copy: PersistentMap[K, V] = PersistentMap.__new__(PersistentMap)
        shards = list(self._shards)
        for number, shard in fresh.items():
            shards[number] = shard
        copy._shards = tuple(shards)
        copy._size = size
        return copy
