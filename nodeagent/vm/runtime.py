"""The runtime of a machine: the whole host, or units of it, as what the controller has assigned to each.

What was assigned once stays, whatever the controller says later of why it is no workload now: to let go of it would be to let its traffic
past the mesh. Only another assignment, or the machine's owner, ends it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from meshapi.attendance import Assigned, Probe
from meshapi.vm import GroupName
from nodeagent.linux import cgroups
from nodeagent.linux.namespaces import key_at
from nodeagent.runtime.base import HOST_NETWORK, LocalWorkload
from nodeagent.state.files import StateDirectory
from nodeagent.vm import membership, units, workloads
from nodeagent.vm.attendance import Attendance
from nodeagent.vm.configuration import Configuration, ConfigurationError, Place, read
from nodeagent.vm.membership import Membership
from nodeagent.vm.prober import Prober
from nodeagent.vm.probing import probe
from nodeagent.xds.channel import Dial

LOOK_S: Final = 0.2
SEARCH_S: Final = 2.0
"""Between two searches for units that are in none of the usual places."""
log = logging.getLogger(__name__)


class MachineRuntime:
    """See `Runtime`. `attendance` and `prober` are to be run beside it."""

    def __init__(self, joined: Membership, configuration: Path, state: StateDirectory, dial: Callable[[], Dial]) -> None:
        self._joined = joined
        self._configuration = configuration
        self._state = state
        self._configured = Configuration()
        self._configuration_problem = ""
        self._version: object = ()
        self._assigned: dict[GroupName, Assigned] = {one.group: one for one in membership.load_assigned(state) if one.uid}
        self._heard = False
        self._problems: dict[GroupName, str] = {}
        self._paths: dict[str, str] = {}
        self._absent_since_s: dict[str, float] = {}
        self._searched_s: dict[str, float] = {}
        self._wake = asyncio.Event()
        self.attendance = Attendance(dial, self._on_assigned)
        self.prober = Prober(self._wake.set, self._ask)

    async def _ask(self, asked: Probe) -> str | None:
        return await probe(asked, programs=self._configured.exec_probes)

    @property
    def _places(self) -> tuple[Place, ...]:
        return self._configured.places

    @property
    def problem(self) -> str:
        """See `Runtime`."""
        unassigned = [f"{group}: {why}" for group, why in self._problems.items()]
        return "; ".join(part for part in (self._configuration_problem, self.attendance.problem, *unassigned) if part)

    async def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        """See `Runtime`."""
        yielded: tuple[LocalWorkload, ...] | None = None
        while True:
            self._wake.clear()
            await asyncio.to_thread(self._look)
            self._say()
            current = tuple(sorted(self._workloads(), key=lambda workload: workload.uid))
            # Without a word of the controller, ever, nothing is known of what a former agent may have captured.
            if current != yielded and self._places and (self._assigned or self._heard):
                yielded = current
                yield current
            await self._rest()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _on_assigned(self, assigned: tuple[Assigned, ...]) -> None:
        self._heard = True
        self._problems = {one.group: one.problem for one in assigned if not one.uid}
        fresh = self._assigned | {one.group: one for one in assigned if one.uid}
        if fresh == self._assigned:
            return
        self._assigned = fresh
        try:
            membership.save_assigned(self._state, fresh.values())
        except OSError as error:
            log.warning("what the controller assigned is not kept: %s", error)
        self._wake.set()

    # ---- what is there

    def _look(self) -> None:
        """Reads what may have changed on the machine. Blocks."""
        version = _version(self._configuration)
        if version != self._version:
            self._version = version
            self._reread()
        now_s = time.monotonic()
        for place in self._places:
            if place.unit:
                self._find(place.unit, now_s)

    def _reread(self) -> None:
        try:
            self._configured = read(self._configuration, self._joined)
            self._configuration_problem = ""
        except ConfigurationError as error:
            self._configuration_problem = f"{error}; what it said before stays in force" if self._places else str(error)
            log.warning("%s", self._configuration_problem)

    def _find(self, unit: str, now_s: float) -> None:
        known = self._paths.get(unit, "")
        try:
            mount_point = cgroups.root()
            if known and (mount_point / known).is_dir():
                return
            if now_s - self._searched_s.get(unit, -SEARCH_S) < SEARCH_S and not (mount_point / "system.slice" / unit).is_dir():
                return
            self._searched_s[unit] = now_s
            found = units.find(unit, mount_point, known)
        except OSError:
            found = ""
        if found:
            self._paths[unit] = found
            self._absent_since_s.pop(unit, None)
        else:
            self._paths.pop(unit, None)
            self._absent_since_s.setdefault(unit, now_s)

    # ---- what follows from it

    def _say(self) -> None:
        now_s = time.monotonic()
        verdicts = self.prober.verdicts
        verdicts |= {place.group: workloads.stopped(place) for place in self._places if place.unit in self._absent_since_s}
        absent = {unit: now_s - since_s for unit, since_s in self._absent_since_s.items()}
        self.attendance.say(workloads.members(self._places, absent, verdicts))
        self.prober.want(self._probes())

    def _probes(self) -> dict[GroupName, Probe]:
        there = (place.group for place in self._places if not place.unit or place.unit in self._paths)
        return {group: one.probe for group in there if (one := self._assigned.get(group)) is not None and one.probe is not None}

    def _workloads(self) -> list[LocalWorkload]:
        return [one for place in self._places if (one := self._workload(place)) is not None]

    def _workload(self, place: Place) -> LocalWorkload | None:
        assigned = self._assigned.get(place.group)
        if assigned is None:
            return None
        if not place.unit:
            return workloads.workload(place, assigned, HOST_NETWORK, key_at(HOST_NETWORK))
        path = self._paths.get(place.unit)
        if path is None:
            return None
        directory = str(cgroups.root() / path)
        return workloads.workload(place, assigned, directory, key_at(directory), cgroup=path)


def _version(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino
