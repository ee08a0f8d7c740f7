"""Owns what the kernel tells of connections: attaches the programs, reads them every few seconds, answers for single connections.

Whatever of it fails costs figures and names, and nothing else: it is said in `problem`, and tried again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, TypeVar

from meshapi.workload import IPAddress, Workload, WorkloadUID
from nodeagent.bpf import bpffs
from nodeagent.bpf.mesh_sockets import Figures, Flow, FlowKey, Role
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.sockets import netns_cookie
from nodeagent.runtime.base import LocalWorkload
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.telemetry.kernel import tcp_metrics
from nodeagent.telemetry.kernel.diallers import Diallers, Place
from nodeagent.telemetry.kernel.sighting import NOTHING, Process, Sighting
from nodeagent.telemetry.kernel.tcp_metrics import STRANGER, Named, TCPMetrics
from nodeagent.telemetry.kernel.tunnels import Tunnels
from nodeagent.telemetry.labels import Reporter
from nodeagent.ztunnel.protocol import ConnectionEntry

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

PERIOD_S: Final = 5.0
RETRY_S: Final = 60.0
"""What the kernel refused it will refuse again; an operator may have changed something meanwhile."""
MAX_KEPT_NAMES: Final = 4096


class _Seen(NamedTuple):
    """A workload of this node, and the cookie of its network namespace."""

    workload: LocalWorkload
    namespace: int


class KernelTelemetry:
    """See the module. Used from one event loop; what blocks runs in one thread of its own."""

    def __init__(self, store: SnapshotStore, pins: Path, *, period_s: float = PERIOD_S) -> None:
        """`pins`: a directory on a bpffs, which is mounted if it is not there."""
        self.metrics = TCPMetrics()
        self.problem = "it has not begun"
        """Why TCP's figures are not counted; empty if they are."""
        self._store = store
        self._pins = pins
        self._period_s = period_s
        self._tunnels = Tunnels(pins)
        self._diallers = Diallers(pins)
        self._workloads: tuple[LocalWorkload, ...] = ()
        self._names: dict[int, LocalWorkload | None] = {}
        """By cookie, also of those that have gone, whose last counts are still to come; None where several share a namespace."""
        self._mounted = False
        self._opened = False
        self._left = False
        self._retry_at_s = 0.0
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kernel telemetry")

    def see(self, workloads: tuple[LocalWorkload, ...]) -> None:
        """Takes the whole set of what runs here now."""
        self._workloads = workloads
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled; the programs go on then, and an agent that comes after it finds the connections that were opened meanwhile."""
        try:
            while True:
                self._wake.clear()
                await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._period_s):
                        await self._wake.wait()
        finally:
            self._thread.shutdown(wait=True)
            self._tunnels.close()
            self._diallers.close()

    async def leave(self) -> None:
        """Takes the programs off, for good."""
        self._left = True
        await self._off(self._leave)
        self._diallers.close()
        self._tunnels.close()

    def _leave(self) -> None:
        for end in (self._diallers.leave, self._tunnels.detach):
            with suppress(OSError):
                end()

    def sightings(self, entries: Sequence[ConnectionEntry], *, ended: bool) -> list[Sighting]:
        """What the kernel knows of connections; of those that have ended it can be told once."""
        known: dict[int | None, Figures | None] = {None: None}  # many connections, few tunnels
        found: list[Sighting] = []
        last, carrier = NOTHING, None
        for entry, process in zip(entries, self._processes(entries, ended=ended), strict=True):
            cookie = entry.socket
            if process is not last.process or cookie != carrier:
                if cookie not in known:
                    known[cookie] = self._figures(cookie)
                last, carrier = Sighting(process, known[cookie]), cookie
            found.append(last)
        return found

    def _processes(self, entries: Sequence[ConnectionEntry], *, ended: bool) -> list[Process | None]:
        try:
            return self._diallers.find(entries, time.time() - time.monotonic(), ended=ended)
        except OSError as error:
            log.debug("processes are not known: %s", error)
            return [None] * len(entries)

    def _figures(self, cookie: int | None) -> Figures | None:
        try:
            return self._tunnels.figures(cookie) if cookie is not None else None
        except OSError as error:
            log.debug("socket %d: %s", cookie, error)
            return None

    # ---- looking

    async def _look(self) -> None:
        if self._left:
            return
        grown = await self._off(self._read, self._workloads)
        # Here, and not in the thread: lookups are made here.
        self._diallers.let_go()
        if not self._opened:
            self._tunnels.close()
        for pair, flow in grown.items():
            self.metrics.add(pair, flow)

    def _read(self, workloads: tuple[LocalWorkload, ...]) -> dict[str, Flow]:
        """What came of each pair, by its labels. Blocks, and raises nothing: what could not be done is in `problem`, or was logged."""
        seen = [found for workload in workloads if (found := _seen(workload)) is not None]
        self._name(seen)
        try:
            if not self._mounted:
                bpffs.ensure(self._pins.parent)
                self._mounted = True
            self._diallers_of(seen)
            if not self._opened:
                self._open()
            if not self._opened:
                return {}
            self._tunnels.count_for({one.namespace for one in seen})
            return self._grown()
        except OSError as error:
            self._fail(error)
            return {}

    def _grown(self) -> dict[str, Flow]:
        grown: dict[str, Flow] = {}
        for key, flow in self._tunnels.grown():
            pair = self._labels(key)
            grown[pair] = tcp_metrics.plus(grown[pair], flow) if pair in grown else flow
        return grown

    def _diallers_of(self, seen: Collection[_Seen]) -> None:
        try:
            self._diallers.set(
                Place(one.workload.uid, one.namespace, one.workload.terms.cgroup) for one in seen if one.workload.terms.cgroup
            )
        except OSError as error:
            log.debug("processes are not known: %s", error)

    def _open(self) -> None:
        if time.monotonic() >= self._retry_at_s:
            self._tunnels.open()
            self._opened, self.problem = True, ""

    def _fail(self, error: OSError) -> None:
        if self.problem != str(error):
            log.warning("connections between workloads are not counted: %s", error)
        self.problem = str(error)
        self._opened, self._retry_at_s = False, time.monotonic() + RETRY_S

    # ---- names; in the thread, as `_read` is

    def _name(self, seen: Sequence[_Seen]) -> None:
        for namespace in {one.namespace for one in seen}:
            here = [one.workload for one in seen if one.namespace == namespace]
            self._names.pop(namespace, None)
            self._names[namespace] = here[0] if len(here) == 1 else None
        while len(self._names) > MAX_KEPT_NAMES:
            del self._names[next(iter(self._names))]

    def _labels(self, key: FlowKey) -> str:
        local = self._names.get(key.namespace)
        own, peer = (STRANGER, STRANGER) if local is None else (self._named(local), self._at(local, key.remote))
        if key.role is Role.SOURCE:
            return tcp_metrics.labels(Reporter.SOURCE, own, peer)
        return tcp_metrics.labels(Reporter.DESTINATION, peer, own)

    def _named(self, local: LocalWorkload) -> Named:
        known = self._store.current.workload(WorkloadUID(local.uid))
        return _name(known) if isinstance(known, Workload) else Named(local.name, local.namespace)

    def _at(self, local: LocalWorkload, remote: IPAddress) -> Named:
        """Who has an address in the network of a workload, as the mesh knows it: nobody is asked, and no peer's word counts."""
        snapshot = self._store.current
        known = snapshot.workload(WorkloadUID(local.uid))
        found = snapshot.workload_at(known.network, remote) if isinstance(known, Workload) else None
        return _name(found) if isinstance(found, Workload) else STRANGER

    async def _off(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))


def _name(workload: Workload) -> Named:
    return Named(workload.workload_name or workload.name, workload.namespace)


def _seen(workload: LocalWorkload) -> _Seen | None:
    """None if its namespace is not there (any more)."""
    try:
        with Namespace.open(workload.netns) as namespace:
            return _Seen(workload, namespace.run(netns_cookie)) if namespace.key == workload.network else None
    except OSError:
        return None
