"""Brings the entries of machines to what they should be, and tells each machine what became of it."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from control.kinds.groups import ReadinessProbe
from control.kinds.metadata import Kind, ObjectKey
from control.model import vm
from control.model.mesh import Mesh
from control.vm.machines import Connected, Machines
from control.vm.plan import Delete, Plan, Put, PutStatus, Step, Terms, World, plan
from meshapi import attendance
from meshapi.attendance import Assigned, Member
from meshapi.vm import GroupName

PERIOD_S: Final = 2.0
REST_S: Final = 0.1
"""At least, between two rounds: what machines say meanwhile is one round's work, however often they say it."""
VERSION: Final = "networking.istio.io/v1"
log = logging.getLogger(__name__)


class EntryError(Exception):
    """An entry could not be written; it is tried again."""


class UnreachableError(EntryError):
    """Where entries are kept gives no answer: the next one would get none either."""


class Entries(Protocol):
    """Where entries are kept. What is written comes back as a change of the mesh; where somebody else was first, the next round looks."""

    async def put(self, step: Put) -> None:
        """Raises EntryError."""

    async def put_status(self, step: PutStatus) -> None:
        """Raises EntryError."""

    async def delete(self, step: Delete) -> None:
        """Raises EntryError."""

    async def keep(self) -> None:
        """What was written in a round is to outlast this process; raises EntryError."""


class Registrar:
    """`terms` says each time who we are among the controllers."""

    def __init__(self, mesh: Mesh, machines: Machines, entries: Entries, terms: Callable[[], Terms], clock: Callable[[], float]) -> None:
        self._mesh = mesh
        self._machines = machines
        self._entries = entries
        self._terms = terms
        self._clock = clock
        self._said: dict[object, str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        unwatch = self._mesh.watch(lambda _: self._machines.changed.set())
        try:
            while True:
                self._machines.changed.clear()
                await self.round()
                await self._rest()
        finally:
            unwatch()

    async def round(self) -> None:
        """Once: plans, writes, and tells."""
        made = plan(self._world(), self._terms())
        try:
            for step in made.steps:
                await self._do(step)
            await self._entries.keep()
        except EntryError as error:
            self._say("kept", f"the entries of machines are not kept: {error}")
        for connected in self._machines.connected:
            self._machines.tell(connected.machine, [self._assigned(made, connected, member) for member in connected.members])
        for machine in self._machines.leaving:
            if not self._mesh.store.registered(machine.node):
                self._machines.gone(machine)
        self._tell_operator(made)

    async def _rest(self) -> None:
        await asyncio.sleep(REST_S)
        try:
            async with asyncio.timeout(PERIOD_S):
                await self._machines.changed.wait()
        except TimeoutError:
            pass

    def _world(self) -> World:
        mesh = self._mesh
        return World(
            connected=self._machines.connected,
            leaving=self._machines.leaving,
            entries={entry.key: (entry, mesh.records[entry.key].manifest) for entry in mesh.store.registrations()},
            group=mesh.store.group,
            version=self._version,
            holder=mesh.holder,
            exists=lambda key: key in mesh.records,
            network=mesh.settings.network,
            now_s=self._clock(),
        )

    def _version(self, group: GroupName) -> str:
        manifest = self._mesh.records[ObjectKey(Kind.WORKLOAD_GROUP, group.namespace, group.name)].manifest
        return str(manifest.get("apiVersion") or VERSION)

    async def _do(self, step: Step) -> None:
        try:
            match step:
                case Put():
                    await self._entries.put(step)
                case PutStatus():
                    await self._entries.put_status(step)
                case Delete():
                    await self._entries.delete(step)
        except UnreachableError:
            raise
        except EntryError as error:
            self._say(step.key, f"{step.key} is not written: {error}")
        else:
            self._said.pop(step.key, None)

    def _assigned(self, made: Plan, connected: Connected, member: Member) -> Assigned:
        key = made.entries.get((connected.machine, member.group))
        problem = made.problems.get((connected.machine, member.group), "")
        entry = next((one for one in self._mesh.store.registered(connected.machine.node) if one.key == key), None)
        group = self._mesh.store.group(member.group)
        if problem or key is None or entry is None or group is None:
            return Assigned(member.group, problem=problem or "its entry is being written")
        if lost := self._mesh.lost(key, self._mesh.derived[key].all_claims):
            return Assigned(member.group, problem=f"its address belongs to {lost[0][1]}")
        settings = self._mesh.settings
        return Assigned(
            member.group,
            uid=f"{settings.cluster}/networking.istio.io/WorkloadEntry/{key.namespace}/{key.name}",
            name=key.name,
            service_account=group.service_account,
            probe=probe_of(group.spec.probe) if group.spec.probe is not None else None,
            address=entry.spec.address,
            ports=tuple(sorted(set(entry.spec.ports.values()))),
            other_address=vm.other_address(entry),
        )

    def _tell_operator(self, made: Plan) -> None:
        self._machines.refused = len(made.problems)
        for key in [key for key in self._said if isinstance(key, tuple) and key not in made.problems]:
            del self._said[key]
        for (machine, group), problem in made.problems.items():
            self._say((machine, group), f"machine {machine.node} is not registered in {group}: {problem}")

    def _say(self, about: ObjectKey | tuple[object, object] | str, text: str) -> None:
        """Once, until it is another."""
        if self._said.get(about) != text:
            self._said[about] = text
            log.warning("%s", text)


def probe_of(probe: ReadinessProbe) -> attendance.Probe:
    """With the defaults filled in, which are Kubernetes'."""
    return attendance.Probe(
        way=next(_ways(probe)),
        initial_delay_s=probe.initial_delay_seconds,
        timeout_s=probe.timeout_seconds or 1,
        period_s=probe.period_seconds or 10,
        success_threshold=probe.success_threshold or 1,
        failure_threshold=probe.failure_threshold or 3,
    )


def _ways(probe: ReadinessProbe) -> Iterator[attendance.Way]:
    """Validation has seen to it that there is one."""
    if (get := probe.http_get) is not None:
        headers = tuple((header.name, header.value) for header in get.http_headers)
        yield attendance.HTTPGet(get.port, f"/{get.path.removeprefix('/')}", get.host, get.scheme == "HTTPS", headers)
    if (tcp := probe.tcp_socket) is not None:
        yield attendance.TCPSocket(tcp.port, tcp.host)
    if (program := probe.exec) is not None:
        yield attendance.Exec(program.command)
    if (call := probe.grpc) is not None:
        yield attendance.GRPC(call.port, call.service)
