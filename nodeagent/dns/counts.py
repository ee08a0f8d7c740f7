"""What DNS does, counted by workload."""

from bisect import bisect_left
from collections import Counter
from collections.abc import ItemsView
from enum import StrEnum
from typing import Final

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class By(StrEnum):
    """Who answered a question."""

    MESH = "mesh"
    CACHE = "cache"
    RESOLVER = "resolver"
    NOBODY = "nobody"
    """It failed, was malformed, or there were too many."""


class Counts:
    """Of one workload."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[By, bool]] = Counter()
        """By who answered, and whether it was asked by TCP."""
        self.upstream = 0
        self.failures = 0
        self.durations = [0] * (len(BOUNDS_S) + 1)
        self.duration_sum_s = 0.0

    def asked(self, duration_s: float) -> None:
        """A resolver answered."""
        self.upstream += 1
        self.durations[bisect_left(BOUNDS_S, duration_s)] += 1
        self.duration_sum_s += duration_s

    def failed(self) -> None:
        """A resolver did not answer."""
        self.upstream += 1
        self.failures += 1


class CountsByWorkload:
    """Of the workloads that are served now, by name and namespace."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counts] = {}

    def of(self, workload: str, namespace: str) -> Counts:
        """The counts of a workload, which go on if it is served again."""
        return self._counts.setdefault((workload, namespace), Counts())

    def forget(self, workload: str, namespace: str) -> None:
        self._counts.pop((workload, namespace), None)

    def items(self) -> ItemsView[tuple[str, str], Counts]:
        return self._counts.items()
