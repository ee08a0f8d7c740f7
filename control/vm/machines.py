"""The machines that are connected to this controller, what each says of itself, and what each is to be told."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from msgspec import Struct

from meshapi.attendance import Assigned, Member
from meshapi.vm import VMName


class Connected(Struct, frozen=True):
    """A machine that is there. `source` is where its connection comes from."""

    machine: VMName
    source: str
    since_s: float
    members: tuple[Member, ...]


class LeavingError(Exception):
    """The machine is on its way out."""


class Connection:
    """One open stream."""

    def __init__(self, connected: Connected) -> None:
        self.connected = connected
        self.superseded = asyncio.Event()
        """The machine has connected again, or leaves."""
        self.told = asyncio.Event()
        self.assigned: tuple[Assigned, ...] = ()
        """The latest is what counts: a machine that reads slowly misses those between."""


class Machines:
    """One connection for each machine: the newest. All calls come from the event loop's thread."""

    def __init__(self) -> None:
        self._connections: dict[VMName, Connection] = {}
        self._leaving: dict[VMName, asyncio.Event] = {}
        self._awaited: Counter[VMName] = Counter()
        self.refused = 0
        """How many members can have no entry."""
        self.changed = asyncio.Event()
        """Set when something is to be looked at."""

    @property
    def connected(self) -> tuple[Connected, ...]:
        return tuple(connection.connected for connection in self._connections.values() if connection.connected.members)

    @property
    def leaving(self) -> frozenset[VMName]:
        """Those whose entries are to go now."""
        return frozenset(self._leaving)

    def open(self, machine: VMName, source: str, now_s: float) -> Connection:
        """A new stream, which takes the place of the machine's former one; raises LeavingError."""
        if machine in self._leaving:
            raise LeavingError(machine.node)
        former = self._connections.get(machine)
        if former is not None:
            former.superseded.set()
        self._connections[machine] = Connection(Connected(machine, source, now_s, ()))
        return self._connections[machine]

    def hear(self, connection: Connection, members: tuple[Member, ...]) -> None:
        """Takes what the machine says now."""
        before = connection.connected
        connection.connected = Connected(before.machine, before.source, before.since_s, members)
        self.changed.set()

    def close(self, connection: Connection) -> None:
        """The stream is over."""
        machine = connection.connected.machine
        if self._connections.get(machine) is connection:
            del self._connections[machine]
            self.changed.set()

    def tell(self, machine: VMName, assigned: Iterable[Assigned]) -> None:
        """What the machine is to know."""
        connection = self._connections.get(machine)
        told = tuple(assigned)
        if connection is not None and connection.assigned != told:
            connection.assigned = told
            connection.told.set()

    def expel(self, machine: VMName) -> None:
        """Its entries go now, and it can't come back before they have."""
        connection = self._connections.pop(machine, None)
        if connection is not None:
            connection.superseded.set()
        self._leaving.setdefault(machine, asyncio.Event())
        self.changed.set()

    @asynccontextmanager
    async def left(self, machine: VMName) -> AsyncIterator[None]:
        """Begins when the machine has no entry any more; it can't come back before the block has ended."""
        self.expel(machine)
        self._awaited[machine] += 1
        try:
            await self._leaving[machine].wait()
            yield
        finally:
            self._awaited[machine] -= 1
            if not self._awaited[machine]:
                del self._awaited[machine]
                self._leaving.pop(machine, None)

    def gone(self, machine: VMName) -> None:
        """It has no entry any more."""
        self._leaving[machine].set()
        if machine not in self._awaited:
            del self._leaving[machine]
