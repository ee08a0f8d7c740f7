"""Istio's metrics of requests and connections, added up by label set; their text for Prometheus is put together by hand."""

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

import msgspec

from control.waypoint.labels import labels_of
from control.waypoint.refused_tunnels import NAME, RefusedTunnels
from control.waypoint.traffic import Progress, Refusal, Request, Traffic, Way, cut, measured
from control.waypoint.workload_names import NOBODY, PATIENCE_S, WorkloadNames

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES: Final = 2_000
"""Label sets of each metric: some hundred bytes of text in each of fifty lines for one of requests."""
MAX_WAITING: Final = 10_000
"""Reports that wait for names."""
MAX_KNOWN: Final = 8192
"""Heads of requests' lines that were seen lately, with what they add to."""
KNOWN_S: Final = 1.0
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


class Count:
    """How much there was."""

    __slots__ = ("_total",)
    kind = "counter"

    def __init__(self) -> None:
        self._total = 0.0

    def add(self, value: float) -> None:
        self._total += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        yield f"{name}{{{labels}}} {self._total:.17g}\n"


class Histogram:
    """How often values fell between limits, and their sum."""

    __slots__ = ("_counts", "_limits", "_sum")

    kind = "histogram"

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


class Family:
    """A metric by label set; the set longest unchanged goes when there are too many. `rule`: Istio's name of it."""

    def __init__(self, rule: str, name: str, text: str, make: Callable[[], Count | Histogram] = Count) -> None:
        self.rule = rule
        self._name = name
        self._text = text
        self._make = make
        self._series: OrderedDict[str, Count | Histogram] = OrderedDict()

    def series(self, labels: str, max_series: int) -> tuple[Count | Histogram, bool]:
        """That of a label set, and whether another one had to make room for it."""
        found = self._series.get(labels)
        if found is not None:
            self._series.move_to_end(labels)
            return found, False
        found = self._series[labels] = self._make()
        if len(self._series) <= max_series:
            return found, False
        self._series.popitem(last=False)
        return found, True

    def lines(self) -> Iterator[str]:
        yield _head(self._name, self._text, self._make().kind)
        for labels, series in self._series.items():
            yield from series.lines(self._name, labels)


def _durations() -> Histogram:
    return Histogram(DURATIONS_MS)


def _sizes() -> Histogram:
    return Histogram(SIZES_BYTES)


def _of_requests() -> tuple[Family, ...]:
    """In the order of a request's measures."""
    return (
        Family("REQUEST_COUNT", "istio_requests_total", "Requests."),
        Family("REQUEST_DURATION", "istio_request_duration_milliseconds", "How long they took.", _durations),
        Family("REQUEST_SIZE", "istio_request_bytes", "Size of requests, headers and body.", _sizes),
        Family("RESPONSE_SIZE", "istio_response_bytes", "Size of responses, headers and body.", _sizes),
    )


def _of_connections() -> tuple[Family, ...]:
    """In the order of a connection's measures."""
    return (
        Family("TCP_OPENED_CONNECTIONS", "istio_tcp_connections_opened_total", "Opened."),
        Family("TCP_CLOSED_CONNECTIONS", "istio_tcp_connections_closed_total", "Closed."),
        Family("TCP_CLOSED_CONNECTIONS", "istio_tcp_connections_failed_total", "Ended without reaching anybody."),
        Family("TCP_RECEIVED_BYTES", "istio_tcp_received_bytes_total", "Bytes from clients."),
        Family("TCP_SENT_BYTES", "istio_tcp_sent_bytes_total", "Bytes to clients."),
    )


_Added = tuple[tuple[Count | Histogram, int], ...]
"""What requests of a kind add to, and which of their measures."""


class RequestMetrics:
    """What one Envoy reported since it began; `names` knows what the mesh calls those whom it is about.

    A report waits for a name that was just asked for, so that a client's first requests are not another client's. Most requests are
    like others just before: what those add to is kept for a second, or until a name or a series is another one.
    """

    def __init__(self, names: WorkloadNames, lost: Callable[[], int] = int, max_series: int = MAX_SERIES) -> None:
        """`lost`: how many reports there were that did not come here."""
        self._lost = lost
        self._names = names
        self._max_series = max_series
        self._waiting: deque[tuple[float, Request | Progress]] = deque()
        """Until when each waits."""
        self._traffic = Traffic()
        self._requests = _of_requests()
        self._connections = _of_connections()
        self._evicted = 0
        self._refused = RefusedTunnels()
        self._known: dict[str, _Added] = {}
        """By the head of a request's line."""
        self._known_since: tuple[float, int] = (0.0, 0)
        """When it was emptied last, and what was said of names by then."""

    def take(self, lines: list[str], now_s: float) -> None:
        """Adds some lines of reports."""
        self.settle(now_s)
        if now_s >= self._known_since[0] + KNOWN_S or self._names.answers != self._known_since[1]:
            self._known.clear()
            self._known_since = now_s, self._names.answers
        for one in self._traffic.read(self._unknown(lines), now_s):
            if isinstance(one, Refusal):
                self._refused.take(one, now_s)
            else:
                self._take(one, now_s, now_s + PATIENCE_S)

    def _unknown(self, lines: list[str]) -> Iterator[str]:
        """Those lines that are not like others just before; the latter are added."""
        for line in lines:
            head, figures = cut(line)
            added = self._known.get(head)
            if added is None:
                yield line
                continue
            try:
                measures = measured(figures)
            except ValueError:
                yield line
                continue
            for series, index in added:
                series.add(measures[index])

    def settle(self, now_s: float) -> None:
        """Adds what waited for names that are known now, or waited long enough."""
        for _ in range(len(self._waiting)):
            until_s, one = self._waiting.popleft()
            self._take(one, now_s, until_s)

    def _take(self, one: Request | Progress, now_s: float, until_s: float) -> None:
        way = self._named(one, now_s, waits=now_s < until_s and len(self._waiting) < MAX_WAITING)
        if way is None:
            self._waiting.append((until_s, one))
            return
        if isinstance(one, Progress):
            self._add(self._connections, one.measures, way)
            return
        added = self._add(self._requests, one.measures, way)
        if len(self._known) < MAX_KNOWN:
            self._known[one.head] = added

    def _named(self, one: Request | Progress, now_s: float, *, waits: bool) -> Way | None:
        """Between whom, by name; None for what is to wait."""
        way = one.way
        # A gateway is the client of what it calls, at the address at which it was called itself.
        source = self._names.find(one.server, way.own, now_s) if way.own else self._names.find(one.client, way.peer, now_s)
        # What endpoints are called comes with them; this is for workloads that were dialled themselves.
        workload = way.workload or self._names.find(one.server, way.identity, now_s)
        if waits and (source is None or workload is None):
            return None
        return msgspec.structs.replace(way, source=source or NOBODY, workload=workload or NOBODY)

    def _add(self, families: tuple[Family, ...], measures: tuple[float, ...], way: Way) -> _Added:
        """Returns what it was added to."""
        labels, added = labels_of(way), list[tuple[Count | Histogram, int]]()
        for index, family in enumerate(families):
            text = labels.of(family.rule)
            if text is None:
                continue
            series, evicts = family.series(text, self._max_series)
            if evicts:
                self._evicted += 1
                self._known.clear()
            series.add(measures[index])
            added.append((series, index))
        return tuple(added)

    def render(self, now_s: float) -> bytes:
        """Prometheus' text."""
        self.settle(now_s)
        return "".join(self._lines()).encode()

    def _lines(self) -> Iterator[str]:
        for of_requests in self._requests:
            yield from of_requests.lines()
        for of_connections in self._connections:
            yield from of_connections.lines()
        yield _head("nodemesh_waypoint_series_evicted_total", "Label sets of a metric that made room for others.", "counter")
        yield f"nodemesh_waypoint_series_evicted_total {self._evicted}\n"
        yield _head("nodemesh_waypoint_reports_lost_total", "Reports of requests and connections that could not be taken.", "counter")
        yield f"nodemesh_waypoint_reports_lost_total {self._lost() + self._traffic.unread}\n"
        yield _head(NAME, "Tunnels that were not let in.", "counter")
        yield from self._refused.lines()


def _head(name: str, text: str, kind: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
