"""What a former agent enrolled here: wanted until the runtime has said what is, then taken off unless it still is."""

from collections.abc import Container, Iterable, Iterator

from nodeagent.enrolment.records import Record
from nodeagent.enrolment.removal import Removals
from nodeagent.linux.namespaces import NamespaceKey
from nodeagent.runtime.base import LocalWorkload


class Recalled:
    """By namespace. What was leaving already goes on leaving. Times are of the monotonic clock."""

    def __init__(self, removals: Removals) -> None:
        self._removals = removals
        self._workloads: dict[NamespaceKey, LocalWorkload] = {}

    def __iter__(self) -> Iterator[LocalWorkload]:
        """Those that are neither enrolled anew nor given up."""
        return iter(self._workloads.values())

    def take(self, recorded: Iterable[Record]) -> list[LocalWorkload]:
        """Starts from what was recorded; returns the workloads that are wanted until there is other word."""
        for record in recorded:
            workload = record.workload
            if workload.network is None or not workload.present:
                continue
            if record.leaving:
                self._removals.add_former(workload, workload.network, until_s=0.0)
            else:
                self._workloads[workload.network] = workload
        return list(self._workloads.values())

    def is_same(self, workload: LocalWorkload) -> bool:
        """Whether it is this workload that was enrolled in its namespace."""
        return workload.network is not None and workload.is_same(self._workloads.get(workload.network))

    def enrolled(self, key: NamespaceKey) -> None:
        """There is an enrolment of this agent's in the namespace."""
        self._workloads.pop(key, None)

    def disown(self, wanted: Container[NamespaceKey | None], *, until_s: float) -> None:
        """What is in no wanted namespace goes; what is wanted stays remembered until it is enrolled anew."""
        for key in [key for key in self._workloads if key not in wanted]:
            self._removals.add_former(self._workloads.pop(key), key, until_s=until_s)
