"""Takes what the proxy counted and logged, and gives it to the metrics and the access log."""

from collections.abc import Sequence
from typing import Final, Protocol

from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.flow_metrics import FlowMetrics
from nodeagent.telemetry.kernel.sighting import NOTHING, Sighting
from nodeagent.telemetry.labels import PROBE, PROBE_FROM_NODE
from nodeagent.telemetry.records import DENIED_FLAG, Record, record
from nodeagent.telemetry.series import SeriesTable, label_text
from nodeagent.ztunnel.protocol import Closed, ConnectionEntry, CounterRow, Counters, GivenBack

MAX_POLICIES: Final = 1000
NO_POLICY: Final = "-"
OTHER_POLICY: Final = "other"


class Observer(Protocol):
    """Who knows more of a connection than the proxy does (`nodeagent.telemetry.kernel`)."""

    def sightings(self, entries: Sequence[ConnectionEntry], *, ended: bool) -> Sequence[Sighting]:
        """What is known of each, of those that have ended for the last time; takes microseconds, and raises nothing."""


class Recorder:
    """One for the life of the agent; the proxy's sessions come and go."""

    def __init__(self, access_log: AccessLog, observer: Observer | None = None) -> None:
        self.access_log = access_log
        self._observer = observer
        self.flows = FlowMetrics()
        self.denied: dict[str, int] = {}
        """Denied connections by the policy that decided."""
        self.probes_from_node = 0
        """Connections that were let in as probes for their address alone."""
        self.refused_at_syn: dict[str, int] = {}
        """Those of them that the kernel refused at their first packet."""
        self.untold_refusals = 0
        """How many of these are not in the access log: it has a part of a flood."""
        self.unattributed_rows = 0
        """Rows of counters whose series is not known any more."""
        self.lost_entries = 0
        """Log entries that the proxy shed."""

    def begin_session(self) -> "SessionRecorder":
        """A proxy connected: its series numbers begin anew."""
        return SessionRecorder(self)

    def last_sightings(self, entries: Sequence[ConnectionEntry]) -> Sequence[Sighting]:
        """What the observer knows of connections that have ended, and forgets by this."""
        return self._observer.sightings(entries, ended=True) if self._observer else [NOTHING] * len(entries)

    def count_denial(self, policy: str | None) -> None:
        """One more of this policy, or of no one's."""
        _count(self.denied, policy, 1)

    def on_refused(self, lines: list[Record]) -> None:
        """Logs connections that the kernel refused; `count_refused` counts them."""
        self.access_log.add(lines)

    def count_refused(self, attributes: GivenBack, policy: str | None, count: int) -> None:
        """Counts connections that the kernel refused: failed ones, like those that the proxy denies."""
        _count(self.denied, policy, count)
        _count(self.refused_at_syn, policy, count)
        self.flows.add(label_text(attributes), CounterRow(series=0, failed={DENIED_FLAG: count}))


def _count(by_policy: dict[str, int], policy: str | None, count: int) -> None:
    name = policy or NO_POLICY
    name = name if name in by_policy or len(by_policy) < MAX_POLICIES else OTHER_POLICY
    by_policy[name] = by_policy.get(name, 0) + count


class SessionRecorder:
    """Of one session of a proxy, whose series numbers it knows."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._series = SeriesTable()

    def on_counters(self, counters: Counters) -> None:
        """Adds what was counted since the last report."""
        self._recorder.lost_entries += counters.lost_log_entries
        for row in counters.rows:
            if row.attributes is not None:
                self._series.define(row.series, row.attributes)
            flow = self._series.find(row.series)
            if flow is None:
                self._recorder.unattributed_rows += 1
            else:
                self._recorder.flows.add(flow.labels, row)

    def on_closed(self, closed: Closed) -> None:
        """Logs connections that ended."""
        records: list[Record] = []
        for entry, sighting in zip(closed.entries, self._recorder.last_sightings(closed.entries), strict=True):
            flow = self._series.find(entry.series)
            line = record(entry, flow.log if flow is not None else {}, sighting)
            records.append(line)
            self._recorder.probes_from_node += line.fields.get(PROBE) == PROBE_FROM_NODE
            if line.denied:
                self._recorder.count_denial(entry.policy)
        self._recorder.access_log.add(records)
