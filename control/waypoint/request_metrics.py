"""Istio's metrics of requests and connections, added up by label set; their text for Prometheus is put together by hand."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Generic, TypeVar

from control.waypoint.labels import label_text
from control.waypoint.traffic import Progress, Request, Traffic, Way

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES: Final = 2_000
"""Label sets of each kind: some hundred bytes of text in each of fifty lines for one of requests."""
DURATIONS_MS: Final = (
    0.5,
    1,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10_000,
    30_000,
    60_000,
    300_000,
    600_000,
    1_800_000,
    3_600_000,
)
SIZES_BYTES: Final = tuple(8**power for power in range(11))


class Histogram:
    """How often values fell between limits, and their sum."""

    __slots__ = ("_counts", "_limits", "_sum")

    def __init__(self, limits: tuple[float, ...]) -> None:
        self._limits = limits
        self._counts = [0] * (len(limits) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._limits, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        total = 0
        for limit, total in zip((*self._limits, "+Inf"), accumulate(self._counts), strict=True):
            yield f'{name}_bucket{{{labels},le="{limit}"}} {total}\n'
        yield f"{name}_sum{{{labels}}} {self._sum:.10g}\n"
        yield f"{name}_count{{{labels}}} {total}\n"


@dataclass(slots=True)
class _Requests:
    labels: str
    total: int = 0
    duration_ms: Histogram = field(default_factory=lambda: Histogram(DURATIONS_MS))
    request_bytes: Histogram = field(default_factory=lambda: Histogram(SIZES_BYTES))
    response_bytes: Histogram = field(default_factory=lambda: Histogram(SIZES_BYTES))

    def add(self, request: Request) -> None:
        self.total += 1
        self.duration_ms.add(request.duration_ms)
        self.request_bytes.add(request.request_bytes)
        self.response_bytes.add(request.response_bytes)


@dataclass(slots=True)
class _Connections:
    labels: str
    opened: int = 0
    closed: int = 0
    failed: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0

    def add(self, progress: Progress) -> None:
        self.opened += progress.opened
        self.closed += progress.closed
        self.failed += progress.failed
        self.received_bytes += progress.received_bytes
        self.sent_bytes += progress.sent_bytes


_HISTOGRAMS: Final = (
    ("duration_ms", "istio_request_duration_milliseconds", "Duration of requests."),
    ("request_bytes", "istio_request_bytes", "Size of requests, headers and body."),
    ("response_bytes", "istio_response_bytes", "Size of responses, headers and body."),
)
_COUNTERS: Final = (
    ("opened", "istio_tcp_connections_opened_total", "TCP connections opened."),
    ("closed", "istio_tcp_connections_closed_total", "TCP connections closed."),
    ("failed", "istio_tcp_connections_failed_total", "TCP connections that reached nobody."),
    ("received_bytes", "istio_tcp_received_bytes_total", "Bytes received from clients of TCP connections."),
    ("sent_bytes", "istio_tcp_sent_bytes_total", "Bytes sent to clients of TCP connections."),
)
T = TypeVar("T")


class _Kept(Generic[T]):
    """Totals by label set; the set longest unchanged goes when there are too many."""

    def __init__(self, make: Callable[[str], T], max_series: int) -> None:
        self._make = make
        self._max_series = max_series
        self._totals: OrderedDict[str, T] = OrderedDict()
        self.evicted = 0

    def __iter__(self) -> Iterator[T]:
        return iter(self._totals.values())

    def of(self, way: Way) -> T:
        # By the labels' text: two ways that read the same are one series.
        labels = label_text(way)
        found = self._totals.get(labels)
        if found is None:
            found = self._totals[labels] = self._make(labels)
            if len(self._totals) > self._max_series:
                self._totals.popitem(last=False)
                self.evicted += 1
        self._totals.move_to_end(labels)
        return found


class RequestMetrics:
    """What one Envoy reported since it began."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._traffic = Traffic()
        self._requests = _Kept(_Requests, max_series)
        self._connections = _Kept(_Connections, max_series)

    def take(self, body: bytes, now_s: float) -> None:
        """Adds a batch of reports; raises DecodeError for what is none."""
        for one in self._traffic.read(body, now_s):
            match one:
                case Request():
                    self._requests.of(one.way).add(one)
                case Progress():
                    self._connections.of(one.way).add(one)

    def render(self) -> bytes:
        """Prometheus' text."""
        return "".join(self._lines()).encode()

    def _lines(self) -> Iterator[str]:
        yield _head("istio_requests_total", "Requests.", "counter")
        yield from (f"istio_requests_total{{{one.labels}}} {one.total}\n" for one in self._requests)
        for attribute, name, text in _HISTOGRAMS:
            yield _head(name, text, "histogram")
            for totals in self._requests:
                yield from getattr(totals, attribute).lines(name, totals.labels)
        for attribute, name, text in _COUNTERS:
            yield _head(name, text, "counter")
            yield from (f"{name}{{{one.labels}}} {getattr(one, attribute)}\n" for one in self._connections)
        evicted = self._requests.evicted + self._connections.evicted
        yield _head("nodemesh_waypoint_series_evicted_total", "Label sets that made room for others.", "counter")
        yield f"nodemesh_waypoint_series_evicted_total {evicted}\n"


def _head(name: str, text: str, kind: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
