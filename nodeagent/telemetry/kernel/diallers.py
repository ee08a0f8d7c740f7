"""Which process opened a connection: the records of each workload whose cgroup is known, and what is made of them."""

import errno
import logging
from collections.abc import Iterable
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
from nodeagent.ztunnel.protocol import ConnectionEntry

log = logging.getLogger(__name__)

SLACK_S: Final = 0.05
"""How much later than the proxy says a connection may have been opened: the proxy's clock is not read at the same moment."""
KEPT_PROCESSES: Final = 1024
_S: Final = 1e-9
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

    def close(self) -> None:
        self._opened.close()


class Diallers:
    """`set` and `close` block; `find` takes a few microseconds, and some more when a process is met for the first time."""

    def __init__(self, pins: Path) -> None:
        self._dialling = Dialling(pins)
        self._held: dict[str, _Held] = {}
        self._failed: dict[Place, str] = {}

    def set(self, places: Iterable[Place]) -> None:
        """Records in these places, and in no others. What fails is tried again the next time."""
        wanted = {place.uid: place for place in places}
        self._dialling.sweep()
        mount_point = cgroups.root()
        for uid, held in list(self._held.items()):
            if wanted.get(uid) != held.place or not held.is_at(mount_point):
                self._release(uid)
        failed: dict[Place, str] = {}
        for uid, place in wanted.items():
            if uid not in self._held:
                try:
                    self._held[uid] = _Held(place, self._dialling)
                except OSError as error:
                    failed[place] = str(error)
        for place in failed.keys() - self._failed.keys():
            log.warning("workload %s: its processes are not known: %s", place.uid, failed[place])
        self._failed = failed

    def find(self, connection: ConnectionEntry, began_s: float, *, ended: bool) -> Process | None:
        """Who opened it, if that is known for sure; of one that has ended, for the last time. Raises OSError and ValueError.

        `began_s`: when the monotonic clock was 0, in Unix time.
        """
        held = self._held.get(connection.workload)
        if held is None:
            return None
        key = dialling.key(held.place.namespace, connection.source, connection.destination)
        record = held.dialled.take(key) if ended else held.dialled.find(key)
        if record is None:
            return None
        at_ns, dialler = dialling.split(record)
        # Addresses and ports come again: a record that is younger than the connection is of a later one.
        if began_s + at_ns * _S <= connection.opened_s + SLACK_S:
            return process_of(dialler)
        if ended:
            held.dialled.put_back(key, record)
        return None

    def close(self) -> None:
        """The programs go on."""
        for held in self._held.values():
            held.close()
        self._held = {}

    def _release(self, uid: str) -> None:
        held = self._held.pop(uid)
        if not any(other.cgroup.id == held.cgroup.id for other in self._held.values()):
            self._dialling.detach(held.cgroup)
        held.close()


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
