"""How DNS is told of, by the names of Istio's node proxy. Apart, since the library takes long to import."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from nodeagent.dns.counts import BOUNDS_S, CountsByWorkload

_SOURCE: Final = ["source_workload", "source_workload_namespace"]


class DNSMetrics(Collector):
    """Of the workloads that are served now."""

    def __init__(self, counts: CountsByWorkload) -> None:
        self._counts = counts

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
