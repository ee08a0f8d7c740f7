"""The counters of flows under Istio's names, and their text for Prometheus, put together by hand: ten thousand series take milliseconds."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from nodeagent.telemetry.labels import RESPONSE_FLAGS
from nodeagent.telemetry.series import escape
from nodeagent.ztunnel.protocol import CounterRow

MAX_FLOWS: Final = 20_000
MAX_FLAGS: Final = 32
OK_FLAG: Final = "-"
OTHER_FLAG: Final = "other"

Labels = tuple[str, str]

_COUNTERS: Final = (
    ("opened", "istio_tcp_connections_opened_total", "TCP connections opened."),
    ("closed", "istio_tcp_connections_closed_total", "TCP connections closed."),
    ("received_bytes", "istio_tcp_received_bytes_total", "Bytes received by the client of TCP connections."),
    ("sent_bytes", "istio_tcp_sent_bytes_total", "Bytes sent by the client of TCP connections."),
)
_FAILED: Final = ("istio_tcp_connections_failed_total", "TCP connections that failed, by response flag.")


@dataclass(slots=True)
class _Totals:
    opened: int = 0
    closed: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def carried(self) -> bool:
        return bool(self.opened or self.closed or self.received_bytes or self.sent_bytes)

    def add(self, row: CounterRow) -> None:
        self.opened += row.opened
        self.closed += row.closed
        self.received_bytes += row.received_bytes
        self.sent_bytes += row.sent_bytes
        for flag, count in row.failed.items():
            name = flag if flag in self.failed or len(self.failed) < MAX_FLAGS else OTHER_FLAG
            self.failed[name] = self.failed.get(name, 0) + count


class FlowMetrics:
    """Totals by label set since the agent began; the set longest unchanged goes when there are too many."""

    def __init__(self, max_flows: int = MAX_FLOWS) -> None:
        self._max_flows = max_flows
        self._totals: OrderedDict[Labels, _Totals] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._totals)

    def add(self, labels: Labels, row: CounterRow) -> None:
        """Adds what a row says."""
        totals = self._totals.get(labels)
        if totals is None:
            totals = self._totals[labels] = _Totals()
            if len(self._totals) > self._max_flows:
                self._totals.popitem(last=False)
                self.evicted += 1
        totals.add(row)
        self._totals.move_to_end(labels)

    def render(self) -> str:
        """The text format, version 0.0.4."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        carried = [(labels, totals) for labels, totals in self._totals.items() if totals.carried]
        for attribute, name, text in _COUNTERS:
            yield _head(name, text)
            for (before, after), totals in carried:
                yield f'{name}{{{before},{RESPONSE_FLAGS}="{OK_FLAG}",{after}}} {getattr(totals, attribute)}\n'
        yield _head(*_FAILED)
        for (before, after), totals in self._totals.items():
            for flag, count in totals.failed.items():
                yield f'{_FAILED[0]}{{{before},{RESPONSE_FLAGS}="{escape(flag)}",{after}}} {count}\n'


def _head(name: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} counter\n"
