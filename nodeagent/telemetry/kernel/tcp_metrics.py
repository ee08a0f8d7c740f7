"""TCP's figures between workloads for Prometheus: the kernel's counts added up by labels, and their text put together by hand."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from operator import add, sub
from typing import Final, NamedTuple

from nodeagent.bpf.mesh_sockets import BUCKETS, FIRST_BOUND_US, Flow, Histogram
from nodeagent.telemetry.labels import UNKNOWN, Reporter
from nodeagent.telemetry.series import escape

MAX_PAIRS: Final = 1000
BOUNDS: Final = (*(repr((FIRST_BOUND_US << bucket) / 1_000_000) for bucket in range(BUCKETS - 1)), "+Inf")
"""Of the buckets, in seconds. Prometheus includes a bound in its bucket, and so does the kernel's program."""

CONNECT: Final = ("nodemesh_tcp_connect_duration_seconds", "Time from SYN to connection, of connections between nodes' proxies.")
RTT: Final = ("nodemesh_tcp_rtt_seconds", "Smoothed round trip time: of each open connection every few seconds, and at its end.")
RETRANSMITS: Final = ("nodemesh_tcp_retransmits_total", "TCP segments sent again.")
BYTES: Final = ("nodemesh_tcp_bytes_total", "Bytes that TCP carried for proxies, encryption included; sent ones when acknowledged.")


class Named(NamedTuple):
    """A workload as labels have it."""

    workload: str
    namespace: str


STRANGER: Final = Named(UNKNOWN, UNKNOWN)


def labels(reporter: Reporter, source: Named, destination: Named) -> str:
    """The labels of a pair, as text."""
    pairs = {
        "reporter": str(reporter),
        "source_workload": source.workload,
        "source_workload_namespace": source.namespace,
        "destination_workload": destination.workload,
        "destination_workload_namespace": destination.namespace,
    }
    return ",".join(f'{name}="{escape(value)}"' for name, value in pairs.items())


class TCPMetrics:
    """Totals by labels since the agent began; the pair that is longest unchanged goes when there are too many."""

    def __init__(self, max_pairs: int = MAX_PAIRS) -> None:
        self._max_pairs = max_pairs
        self._totals: OrderedDict[str, Flow] = OrderedDict()
        self.evicted = 0

    def add(self, pair: str, grown: Flow) -> None:
        """Adds what came to a pair's counts."""
        self._totals[pair] = plus(self._totals.get(pair, Flow()), grown)
        self._totals.move_to_end(pair)
        if len(self._totals) > self._max_pairs:
            self._totals.popitem(last=False)
            self.evicted += 1

    def render(self) -> str:
        """The text format, version 0.0.4."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        totals = list(self._totals.items())
        # Who accepts a connection does not connect.
        yield from _histograms(*CONNECT, ((pair, total.connect) for pair, total in totals if any(total.connect.counts)))
        yield from _histograms(*RTT, ((pair, total.rtt) for pair, total in totals))
        yield _head(*RETRANSMITS, "counter")
        for pair, total in totals:
            yield f"{RETRANSMITS[0]}{{{pair}}} {total.retransmits}\n"
        yield _head(*BYTES, "counter")
        for pair, total in totals:
            yield f'{BYTES[0]}{{{pair},direction="sent"}} {total.sent_bytes}\n'
            yield f'{BYTES[0]}{{{pair},direction="received"}} {total.received_bytes}\n'


def plus(one: Flow, other: Flow) -> Flow:
    return Flow(
        Histogram(tuple(map(add, one.connect.counts, other.connect.counts)), one.connect.sum_us + other.connect.sum_us),
        Histogram(tuple(map(add, one.rtt.counts, other.rtt.counts)), one.rtt.sum_us + other.rtt.sum_us),
        one.retransmits + other.retransmits,
        one.sent_bytes + other.sent_bytes,
        one.received_bytes + other.received_bytes,
    )


def minus(now: Flow, before: Flow) -> Flow:
    """What came since."""
    return Flow(
        Histogram(tuple(map(sub, now.connect.counts, before.connect.counts)), now.connect.sum_us - before.connect.sum_us),
        Histogram(tuple(map(sub, now.rtt.counts, before.rtt.counts)), now.rtt.sum_us - before.rtt.sum_us),
        now.retransmits - before.retransmits,
        now.sent_bytes - before.sent_bytes,
        now.received_bytes - before.received_bytes,
    )


def _histograms(name: str, text: str, of: Iterable[tuple[str, Histogram]]) -> Iterator[str]:
    yield _head(name, text, "histogram")
    for pair, histogram in of:
        below = 0
        for bound, count in zip(BOUNDS, histogram.counts, strict=True):
            below += count
            yield f'{name}_bucket{{{pair},le="{bound}"}} {below}\n'
        yield f"{name}_sum{{{pair}}} {histogram.sum_us / 1_000_000!r}\n{name}_count{{{pair}}} {below}\n"


def _head(name: str, text: str, kind: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
