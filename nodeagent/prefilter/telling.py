"""What the kernel refused, for the metrics and the access log: the same fields as of a denial by the proxy.

Counts are exact. Lines are a sample where many come at once, and so are the ports: a count names the workload, not the service.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from meshapi.wire import HBONE_PORT
from meshapi.workload import Workload, WorkloadUID
from nodeagent.bpf.prefilter import Refusal, denial_number
from nodeagent.policy.addresses import socket_address
from nodeagent.policy.authorize import VerdictQuestion
from nodeagent.policy.prefilter import Denial
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.view import Missing
from nodeagent.telemetry.labels import LOG, Reporter, flow_attributes
from nodeagent.telemetry.recorder import Recorder
from nodeagent.telemetry.records import DENIED_FLAG, Record, record
from nodeagent.ztunnel.answers import inbound_attributes
from nodeagent.ztunnel.protocol import Attributes, ConnectionEntry, Direction, Via

Names = Mapping[int, Denial]
_NANOSECONDS: Final = 1_000_000_000


class Telling:
    """`clock` is the wall's, `since_start` the machine's monotonic one; both in seconds."""

    def __init__(
        self,
        store: SnapshotStore,
        recorder: Recorder,
        *,
        clock: Callable[[], float] = time.time,
        since_start: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._since_start = since_start

    def lines(self, uid: WorkloadUID, refused: Iterable[Refusal], names: Names) -> None:
        """Logs refused connections."""
        self._recorder.on_refused([self._line(uid, one, self._name(one.denial, names)) for one in refused])

    def counts(self, uid: WorkloadUID, denied: Mapping[int, int], names: Names) -> None:
        """Counts refused connections."""
        attributes = msgspec.json.decode(flow_attributes(Reporter.DESTINATION, destination=self._workload(uid)))
        for number, count in denied.items():
            self._recorder.count_refused(attributes, self._name(number, names).policy, count)

    def untold(self, count: int) -> None:
        """So many were refused, and not logged."""
        self._recorder.untold_refusals += count

    def _line(self, uid: WorkloadUID, refused: Refusal, why: Denial) -> Record:
        at_s = self._clock() - (self._since_start() - refused.at_ns / _NANOSECONDS)
        via = Via.HBONE if refused.port == HBONE_PORT else Via.PLAINTEXT
        entry = ConnectionEntry(
            id=0,
            workload=uid,
            direction=Direction.INBOUND,
            series=None,
            source=socket_address(refused.source, refused.source_port),
            destination=socket_address(refused.destination, refused.port),
            opened_s=at_s,
            via=via,
            flag=DENIED_FLAG,
            error=f"{why.reason} (refused at the SYN)",
            policy=why.policy,
        )
        return record(entry, msgspec.json.decode(self._attributes(uid, refused, via))[LOG])

    def _attributes(self, uid: WorkloadUID, refused: Refusal, via: Via) -> Attributes:
        if via is Via.HBONE:
            return flow_attributes(Reporter.DESTINATION, destination=self._workload(uid))
        question = VerdictQuestion(uid, refused.destination, refused.port, via, refused.source, None)
        attributes, _ = inbound_attributes(self._store.current, question, is_probe=False)
        return attributes

    def _workload(self, uid: WorkloadUID) -> Workload | None:
        found = self._store.current.workload(uid)
        return None if isinstance(found, Missing) else found

    def _name(self, number: int, names: Names) -> Denial:
        """Numbers may be of a table that a former agent made."""
        if number in names:
            return names[number]
        policy = next((key for key in self._store.current.policies_by_key if denial_number(key) == number), None)
        return Denial(policy, "denied by a policy that is not in force any more" if policy is None else f"denied by {policy}")
