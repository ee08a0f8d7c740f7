"""Which process opened a connection: the records of each workload whose cgroup is known, and what is made of them."""

import errno
import logging
import time
from collections.abc import Iterable
from contextlib import ExitStack
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from meshapi.workload import IPAddress
from nodeagent.bpf.dialling import Connection, Dialled, Dialler, Dialling
from nodeagent.linux import cgroups, process
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.errors import KernelError

log = logging.getLogger(__name__)

SLACK_S: Final = 0.05
"""How much later than the proxy says a connection may have been opened: the proxy's clock is not read at the same moment."""
KEPT_PATHS: Final = 1024
_SHOWN_NAME_BYTES: Final = 31
"""Of a file's name, in a record."""


class Place(NamedTuple):
    """A workload whose processes are to be known."""

    uid: str
    namespace: int
    """The cookie of its network namespace."""
    cgroup: str


class Opened(NamedTuple):
    """A connection as the proxy tells of it: `at_s` in Unix time, addresses as `ip:port`."""

    uid: str
    source: str
    destination: str
    at_s: float


class _Held:
    """The records of a place, open."""

    def __init__(self, place: Place, dialling: Dialling) -> None:
        self.place = place
        with ExitStack() as undo:
            cgroup = undo.enter_context(Cgroup.open(place.cgroup))
            if cgroup.is_root:
                raise KernelError(errno.EPERM, "cgroup /", detail="it is the root cgroup, with the whole machine")
            dialling.attach(cgroup)
            found = undo.enter_context(dialling.open(cgroup))
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
    """`set` and `close` block; `find` and `forget` take some microseconds, and a few more when a process is met for the first time."""

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

    def find(self, opened: Opened) -> Dialler | None:
        """Who opened it, if that is known for sure."""
        key = self._connection(opened)
        if key is None:
            return None
        found = self._held[opened.uid].dialled.find(key)
        # Addresses and ports come again: a record that is younger than the connection is of a later one.
        age_s = (time.monotonic_ns() - found.at_ns) / 1e9 if found is not None else 0
        return found if found is not None and time.time() - age_s <= opened.at_s + SLACK_S else None

    def forget(self, opened: Opened) -> None:
        """It has ended: makes room for others."""
        key = self._connection(opened)
        if key is not None:
            self._held[opened.uid].dialled.forget(key)

    def close(self) -> None:
        """The programs go on."""
        for held in self._held.values():
            held.close()
        self._held = {}

    def _connection(self, opened: Opened) -> Connection | None:
        held = self._held.get(opened.uid)
        if held is None:
            return None
        return Connection(held.place.namespace, _endpoint(opened.source), _endpoint(opened.destination))

    def _release(self, uid: str) -> None:
        held = self._held.pop(uid)
        if not any(other.cgroup.id == held.cgroup.id for other in self._held.values()):
            self._dialling.detach(held.cgroup)
        held.close()


@lru_cache(KEPT_PATHS)
def path_of(pid: int, started_ns: int, name: str) -> str:
    """The path of the file that a process runs, if it is still there and its file still has this name; else the name."""
    path = process.executable(pid, started_ns)
    if path is None or path.rpartition("/")[2].encode("utf-8", "replace")[:_SHOWN_NAME_BYTES] != name.encode("utf-8", "replace"):
        return name
    return path


def _endpoint(text: str) -> tuple[IPAddress, int]:
    address, _, port = text.rpartition(":")
    return ip_address(address.strip("[]")), int(port)
