"""What an operator sees of each workload's enrolment."""

from enum import StrEnum

from msgspec import Struct

from nodeagent.capture.units import UnitCapture
from nodeagent.enrolment.entry import Entry
from nodeagent.enrolment.tally import Tallied
from nodeagent.linux.nftables import Counter
from nodeagent.runtime.base import LocalWorkload


class EnrolmentState(StrEnum):
    WAITING = "waiting"
    """Not enrolled yet; `problem` says for what."""
    LISTENING = "listening"
    """Listeners are open; its identity or the proxy is awaited; not captured."""
    CAPTURED = "captured"
    CLOSED = "closed"
    """Captured, but no proxy serves it: its connections are refused."""
    OPEN = "open"
    """No proxy serves it, and as its terms have it, its connections pass by the mesh."""
    LEAVING = "leaving"


class WorkloadStatus(Struct, frozen=True):
    """One workload. `captured_since_s` is Unix time."""

    workload: LocalWorkload
    state: EnrolmentState
    capture: str
    captured_since_s: float | None = None
    problem: str = ""
    addresses: tuple[str, ...] = ()
    counters: dict[str, Counter] = {}
    tally: dict[Tallied, int] = {}
    """Of its connections, since it is captured."""


def describe_enrolment(workload: LocalWorkload, entry: Entry | None, problem: str, capture: str, *, connected: bool) -> WorkloadStatus:
    """What there is to say of a workload that is desired or enrolled. `problem` is what went wrong last; `connected`: a proxy is."""
    if workload.process_group:
        capture = UnitCapture.name
    if entry is None:
        return WorkloadStatus(workload, EnrolmentState.WAITING, capture, problem=problem)
    served = entry.announced is not None
    state = _state(entry, served=served)
    if not problem and not served:
        problem = "waiting for its identity" if connected else "no proxy is connected"
    tally = entry.tally.totals()
    openly = f"passed by the mesh while its proxy was away: {tally[Tallied.OPENLY]}" if tally[Tallied.OPENLY] else ""
    problem = "; ".join(one for one in (problem, workload.terms_problem, entry.inspection.remark, openly) if one)
    return WorkloadStatus(workload, state, capture, entry.captured_since_s, problem, entry.addresses, entry.inspection.counters, tally)


def _state(entry: Entry, *, served: bool) -> EnrolmentState:
    if entry.opened:
        return EnrolmentState.OPEN
    if not entry.captured:
        return EnrolmentState.LISTENING
    return EnrolmentState.CAPTURED if served else EnrolmentState.CLOSED
