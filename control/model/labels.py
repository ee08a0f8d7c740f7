"""Two indexes that answer in the size of the answer: which objects a selector selects, and which selectors select an object."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TypeVar

from control.kinds import MeshObject, ObjectKey, WorkloadEntry

ANYWHERE = ""
"""In place of a namespace: all of them."""

Labels = Mapping[str, str]


def selects(selector: Labels, labels: Labels) -> bool:
    """Whether all of the selector's labels are there."""
    return selector.items() <= labels.items()


def workload_labels(item: MeshObject) -> Labels:
    """The labels by which an object's workloads are selected."""
    return item.labels if isinstance(item, WorkloadEntry) else item.metadata.labels


P = TypeVar("P")


def unfile(index: dict[P, set[ObjectKey]], place: P, key: ObjectKey) -> None:
    """Takes a key out of its place, and the place out of the index with the last one: pods come and go for ever."""
    keys = index.get(place, set())
    keys.discard(key)
    if not keys:
        index.pop(place, None)


def refile(index: dict[P, set[ObjectKey]], key: ObjectKey, before: AbstractSet[P], after: AbstractSet[P]) -> None:
    """Moves a key from the places where it was to those where it is."""
    for place in before - after:
        unfile(index, place, key)
    for place in after - before:
        index.setdefault(place, set()).add(key)


def _places(key: ObjectKey, labels: Labels) -> list[tuple[str, str, str]]:
    return [(namespace, *pair) for pair in labels.items() for namespace in (key.namespace, ANYWHERE)]


class LabelIndex:
    """Labelled objects, by namespace and label."""

    def __init__(self) -> None:
        self._labels: dict[ObjectKey, Labels] = {}
        self._by_namespace: dict[str, set[ObjectKey]] = {}
        self._by_pair: dict[tuple[str, str, str], set[ObjectKey]] = {}

    def put(self, key: ObjectKey, labels: Labels | None) -> None:
        """Indexes an object anew; None forgets it."""
        if (before := self._labels.pop(key, None)) is not None:
            unfile(self._by_namespace, key.namespace, key)
            for place in _places(key, before):
                unfile(self._by_pair, place, key)
        if labels is not None:
            self._labels[key] = labels
            self._by_namespace.setdefault(key.namespace, set()).add(key)
            for place in _places(key, labels):
                self._by_pair.setdefault(place, set()).add(key)

    def within(self, namespace: str) -> set[ObjectKey]:
        """Every object of a namespace, or ANYWHERE."""
        return set(self._labels) if namespace == ANYWHERE else set(self._by_namespace.get(namespace, ()))

    def select(self, namespace: str, selector: Labels) -> set[ObjectKey]:
        """The objects that a selector selects; without labels it selects all."""
        if not selector:
            return self.within(namespace)
        fewest = min((self._by_pair.get((namespace, *pair), set()) for pair in selector.items()), key=len)
        return {key for key in fewest if selects(selector, self._labels[key])}


class SelectorIndex:
    """Selectors, found by the labels of an object. Each is filed under one of its labels; one without labels selects nothing here."""

    def __init__(self) -> None:
        self._selectors: dict[ObjectKey, tuple[str, Labels]] = {}
        self._by_pair: dict[tuple[str, str, str], set[ObjectKey]] = {}

    def put(self, key: ObjectKey, namespace: str, selector: Labels | None) -> None:
        """Indexes the selector of `key`, which selects in `namespace` or ANYWHERE; None or an empty one forgets it."""
        if (before := self._selectors.pop(key, None)) is not None:
            unfile(self._by_pair, (before[0], *min(before[1].items())), key)
        if selector:
            self._selectors[key] = (namespace, selector)
            self._by_pair.setdefault((namespace, *min(selector.items())), set()).add(key)

    def matching(self, namespace: str, labels: Labels) -> list[ObjectKey]:
        """The keys whose selectors select an object of `namespace` with these labels, sorted."""
        found = {
            key
            for pair in labels.items()
            for where in (namespace, ANYWHERE)
            for key in self._by_pair.get((where, *pair), ())
            if selects(self._selectors[key][1], labels)
        }
        return sorted(found)
