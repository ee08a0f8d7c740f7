"""Which process opened a connection: the records of each workload whose cgroup is known, and what is made of them."""

import errno
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from nodeagent.bpf import dialling
from nodeagent.bpf.dialling import Dialled, Dialler, Dialling
from nodeagent.linux import cgroups, process
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.errors import KernelError
from nodeagent.telemetry.kernel.sighting import Process
from nodeagent.ztunnel.protocol import ConnectionEntry, Direction

log = logging.getLogger(__name__)

SLACK_S: Final = 0.05
"""How much later than the proxy says a connection may have been opened: the proxy's clock is not read at the same moment."""
MAX_WAIT_S: Final = 130.0
"""How long a connection may have waited for the proxy to accept it: so long a SYN is sent again (net.ipv4.tcp_syn_retries)."""
LINGER_S: Final = 5.0
"""A workload's last connections are told of when it is gone."""
KEPT_PROCESSES: Final = 1024
_S: Final = 1e-9
_OUTBOUND: Final = Direction.OUTBOUND
_SHOWN_NAME_BYTES: Final = 31
"""Of a file's name, in a record."""


class Place(NamedTuple):
    """A workload whose processes are to be known."""

    uid: str
    namespace: int
    """The cookie of its network namespace."""
    cgroup: str


class _Held:
    """The records of a place, open."""

    def __init__(self, place: Place, program: Dialling) -> None:
        self.place = place
        self.unwanted_since_s: float | None = None
        with ExitStack() as undo:
            cgroup = undo.enter_context(Cgroup.open(place.cgroup))
            if cgroup.is_root:
                raise KernelError(errno.EPERM, "cgroup /", detail="it is the root cgroup, with the whole machine")
            program.attach(cgroup)
            found = undo.enter_context(program.open(cgroup))
            if found is None:
                raise KernelError(errno.ENOENT, f"cgroup {place.cgroup}")
            self.cgroup = cgroup
            self.dialled: Dialled = found
            self._opened = undo.pop_all()

    def is_at(self, mount_point: Path) -> bool:
        """Whether its cgroup is still the one at its path: a unit that restarts gets another."""
        return cgroups.id_at(mount_point / self.place.cgroup.lstrip("/")) == self.cgroup.id

    def unwanted(self, now_s: float) -> float:
        """Since when its workload is gone; from now on, if it was there."""
        self.unwanted_since_s = now_s if self.unwanted_since_s is None else self.unwanted_since_s
        return self.unwanted_since_s

    def close(self) -> None:
        self._opened.close()


class Diallers:
    """`set` and `leave` block: they have a thread. `find`, `let_go` and `close` share another, so that no map is closed under a search.

    `find` takes about a microsecond for each of many, and some more when a process is met for the first time.
    """

    def __init__(self, pins: Path, *, linger_s: float = LINGER_S) -> None:
        self._dialling = Dialling(pins)
        self._linger_s = linger_s
        self._held: dict[str, _Held] = {}
        self._released: list[_Held] = []
        self._failed: dict[Place, str] = {}
        self._swept = False

    def set(self, places: Iterable[Place]) -> None:
        """Records in these places; others stay for a moment. What fails is tried again the next time. Raises KernelError."""
        wanted = {place.uid: place for place in places}
        if not self._swept:
            self._dialling.sweep()
            self._swept = True
        mount_point, now_s = cgroups.root(), time.monotonic()
        for uid, held in list(self._held.items()):
            if uid in wanted:
                over = wanted[uid] != held.place or not held.is_at(mount_point)
            else:
                over = now_s >= held.unwanted(now_s) + self._linger_s
            if over:
                self._release(uid)
        self._failed = self._hold(wanted)

    def leave(self) -> None:
        """Ends all of it."""
        for uid in list(self._held):
            self._release(uid)

    def let_go(self) -> None:
        """Closes what was released."""
        while self._released:
            self._released.pop().close()

    def _hold(self, wanted: Mapping[str, Place]) -> dict[Place, str]:
        """Returns what failed, and why."""
        failed: dict[Place, str] = {}
        for uid, place in wanted.items():
            if uid in self._held:
                self._held[uid].unwanted_since_s = None
                continue
            try:
                self._held[uid] = _Held(place, self._dialling)
            except OSError as error:
                failed[place] = str(error)
                if self._failed.get(place) != failed[place]:
                    log.warning("workload %s: its processes are not known: %s", uid, error)
        return failed

    def find(self, connections: Sequence[ConnectionEntry], began_s: float, *, ended: bool) -> list[Process | None]:
        """Who opened each; of those that have ended, for the last time. Raises OSError.

        `began_s`: when the monotonic clock was 0, in Unix time.
        """
        found: list[Process | None] = [None] * len(connections)
        keys: dict[str, dict[bytes, int]] = {}
        for index, connection in enumerate(connections):
            if connection.direction is _OUTBOUND and (held := self._held.get(connection.workload)) is not None:
                try:
                    key = dialling.key(held.place.namespace, connection.source, connection.destination)
                except ValueError as error:  # the proxy's word, which is none of the kernel's
                    log.debug("connection %d: %s", connection.id, error)
                else:
                    keys.setdefault(connection.workload, {})[key] = index
        for uid, asked in keys.items():
            dialled, over = self._held[uid].dialled, []
            for (key, index), record in zip(asked.items(), dialled.find(list(asked)), strict=True):
                if record is None:
                    continue
                at_ns, dialler = dialling.split(record)
                # Addresses and ports come again: what is younger than the connection, or much older, is of another one.
                waited_s = connections[index].opened_s - began_s - at_ns * _S
                if waited_s >= -SLACK_S:
                    over.append(key)
                    found[index] = process_of(dialler) if waited_s <= MAX_WAIT_S else None
            if ended:
                dialled.forget(over)
        return found

    def close(self) -> None:
        """The programs go on."""
        self._released += self._held.values()
        self._held = {}
        self.let_go()

    def _release(self, uid: str) -> None:
        held = self._held.pop(uid)
        self._released.append(held)
        if not any(other.cgroup.id == held.cgroup.id for other in self._held.values()):
            self._dialling.detach(held.cgroup)


@lru_cache(KEPT_PROCESSES)
def process_of(dialler: bytes) -> Process:
    """The process of a record. Its path is looked for once: when it is first met."""
    found = dialling.unpack(dialler)
    return Process(found.pid, path_of(found) or None, found.command)


def path_of(dialler: Dialler) -> str:
    """The path of the file that it runs, if it is still there and the file still has the name that it had; else that name."""
    path = process.executable(dialler.pid, dialler.started_ns)
    if path is None or _shown(path.rpartition("/")[2]) != _shown(dialler.executable):
        return dialler.executable
    return path


def _shown(name: str) -> bytes:
    return name.encode("utf-8", "replace")[:_SHOWN_NAME_BYTES]
