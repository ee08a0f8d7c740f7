"""What DNS does, counted by workload, and how it is told: by the names of Istio's node proxy."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SOURCE: Final = ["source_workload", "source_workload_namespace"]


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


class DNSMetrics(Collector):
    """Of the workloads that are served now."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counts] = {}

    def of(self, workload: str, namespace: str) -> Counts:
        """The counts of a workload, which go on if it is served again."""
        return self._counts.setdefault((workload, namespace), Counts())

    def forget(self, workload: str, namespace: str) -> None:
        self._counts.pop((workload, namespace), None)

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """The families, in their order on the page."""
        requests = CounterMetricFamily(
            "istio_dns_requests", "Questions to DNS, by who answered.", labels=[*_SOURCE, "request_protocol", "answered_by"]
        )
        upstream = CounterMetricFamily("istio_dns_upstream_requests", "Questions that were passed on to a resolver.", labels=_SOURCE)
        failures = CounterMetricFamily("istio_dns_upstream_failures", "Those that it did not answer.", labels=_SOURCE)
        durations = HistogramMetricFamily(
            "istio_dns_upstream_request_duration_seconds", "How long resolvers took to answer.", labels=_SOURCE
        )
        for source, counts in self._counts.items():
            for (by, by_tcp), count in sorted(counts.answered.items()):
                requests.add_metric([*source, "tcp" if by_tcp else "udp", by], count)
            upstream.add_metric(source, counts.upstream)
            failures.add_metric(source, counts.failures)
            durations.add_metric(source, _cumulated(counts.durations), counts.duration_sum_s)
        yield from (requests, upstream, failures, durations)


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    return [(bound, float(sum(counts[: index + 1]))) for index, bound in enumerate(bounds)]
