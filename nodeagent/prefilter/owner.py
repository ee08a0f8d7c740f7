"""Owns the tables of this node's workloads: made again when what they depend on changes, looked after, and read for what they refused.

Tables stay in force without the agent, as answers that the proxy holds do. Whatever fails here costs work, and opens nothing: the proxy
judges every connection that gets to it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NoReturn, ParamSpec, TypeVar

from meshapi.workload import IPAddress, WorkloadUID
from nodeagent.bpf.prefilter import REFUSAL_BYTES, decode, denial_number
from nodeagent.bpf.ringbuffer import RingBuffer
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.policy.prefilter import Denial, Left, Prefilter
from nodeagent.prefilter.kernel import OFF, FirstPackets, Renewed, refusals, renew
from nodeagent.prefilter.telling import Telling
from nodeagent.runtime.base import LocalWorkload
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.ztunnel.protocol import Via

log = logging.getLogger(__name__)

CHECK_S: Final = 10.0
"""How often the kernel is asked whether what is in force is still what should be."""
MAX_NAMES: Final = 1000
"""Of a workload's policies, those of former tables included: what they refused may be told after they went."""
THREADS: Final = 4
"""The kernel waits when it replaces a table; several of these waits are over at one time."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Held:
    """A workload's table as it was made last. `touched`: what has changed since its making began, None if none is being made."""

    workload: LocalWorkload
    compiled: Prefilter | Left | None = None
    depends_on: frozenset[str] = frozenset()
    touched: set[str] | None = None
    ring: RingBuffer | None = None
    names: dict[int, Denial] = field(default_factory=dict)
    shed: int | None = None
    problem: str = ""


class PrefilterOwner:
    """Used from one event loop; what blocks runs in threads of its own.

    `kernel`: None where the capture has no such part. `enrolled`: the workloads of this node as they are.
    """

    def __init__(
        self,
        store: SnapshotStore,
        kernel: FirstPackets | None,
        enrolled: Callable[[], Iterable[WorkloadStatus]],
        telling: Telling,
        *,
        enabled: bool = True,
    ) -> None:
        self._store = store
        self._kernel = kernel
        self._enrolled = enrolled
        self._telling = telling
        self._enabled = enabled
        self._held: dict[WorkloadUID, _Held] = {}
        self._stale: set[WorkloadUID] = set()
        self._wake = asyncio.Event()
        self._running = False
        self._collecting: list[asyncio.Future[None]] = []
        """Who waits for what was refused up to now."""
        self._check_at_s = 0.0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="prefilter")
        if enabled and kernel is not None:
            store.watch(self._on_snapshot)

    async def run(self) -> NoReturn:
        """Until it is cancelled. What is in force stays."""
        self._running = True
        try:
            while True:
                self._wake.clear()
                if self._kernel is not None:
                    await self._follow(self._kernel)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._check_at_s - time.monotonic()) if self._kernel else None):
                        await self._wake.wait()
        finally:
            self._running = False
            self._collected()
            for held in self._held.values():
                _stop_reading(held)
            self._threads.shutdown(wait=True)

    def touch(self) -> None:
        """Which workloads are captured may have changed."""
        self._wake.set()

    async def collect(self) -> None:
        """Returns when what was refused up to now is counted. Who gives up waiting loses none of it."""
        if self._running and any(held.ring is not None for held in self._held.values()):
            counted = asyncio.get_running_loop().create_future()
            self._collecting.append(counted)
            self._wake.set()
            await counted

    def refusal(self, uid: str, source: IPAddress, destination: IPAddress, port: int, via: Via) -> Denial | None:
        """Whether the kernel refuses such a connection to a workload of this node, and why."""
        held = self._held.get(WorkloadUID(uid))
        if held is None or held.problem or not isinstance(held.compiled, Prefilter):
            return None
        return held.compiled.refusal(source, destination, port, via)

    def words(self, uid: str) -> str:
        """What is in force for a workload, for an operator."""
        if not self._enabled:
            return OFF.why
        if self._kernel is None:
            return "not in this capture: all is left to the proxy"
        held = self._held.get(WorkloadUID(uid))
        if held is None or held.compiled is None:
            return "nothing yet: all is left to the proxy" + (f": {held.problem}" if held is not None and held.problem else "")
        if held.problem:
            return f"not known: {held.problem}"
        if isinstance(held.compiled, Left):
            return f"all is left to the proxy: {held.compiled.why}"
        if not held.compiled.denials:
            return "no policy denies what a first packet shows"
        return "refuses " + ", ".join(dict.fromkeys(denial.reason for denial in held.compiled.denials))

    def summary(self) -> str:
        """The same for the whole node."""
        if not self._enabled:
            return OFF.why
        if self._kernel is None:
            return "not in this capture: the proxy refuses what policies deny"
        tables = [held for held in self._held.values() if isinstance(held.compiled, Prefilter) and held.compiled.denials]
        left = [held for held in self._held.values() if isinstance(held.compiled, Left) or held.problem]
        words = f"{len(tables)} of {len(self._held)} workloads refuse at the first packet"
        return words + (f", {len(left)} left to the proxy (`nodeagent capture` says why)" if left else "")

    # ---- following

    def _on_snapshot(self, _snapshot: Snapshot, touched: Collection[str]) -> None:
        for uid, held in self._held.items():
            if held.touched is not None:
                held.touched.update(touched)
            elif not held.depends_on.isdisjoint(touched):
                self._stale.add(uid)
        if self._stale:
            self._wake.set()

    async def _follow(self, kernel: FirstPackets) -> None:
        present = {
            WorkloadUID(status.workload.uid): status.workload
            for status in self._enrolled()
            if status.state in {EnrolmentState.CAPTURED, EnrolmentState.CLOSED}
            and status.workload.network is not None
            and not status.workload.process_group  # nothing that comes in is captured there
        }
        for uid, held in list(self._held.items()):
            if present.get(uid) is None or present[uid].network != held.workload.network:
                _stop_reading(self._held.pop(uid))
        wanted = {uid for uid, held in self._held.items() if held.ring is not None} if self._collecting else set()
        due = wanted | self._stale | (present.keys() - self._held.keys()) | {uid for uid, held in self._held.items() if held.problem}
        self._stale = set()
        if time.monotonic() >= self._check_at_s:
            self._check_at_s = time.monotonic() + CHECK_S
            due = set(present)
        for uid in due & present.keys():
            self._held.setdefault(uid, _Held(present[uid]))
        waiting, self._collecting = self._collecting, []
        try:
            async with asyncio.TaskGroup() as group:
                for uid in due & present.keys():
                    group.create_task(self._renew(kernel, uid, self._held[uid]), name=f"prefilter: {uid}")
        finally:
            _wake(waiting)

    def _collected(self) -> None:
        waiting, self._collecting = self._collecting, []
        _wake(waiting)

    async def _renew(self, kernel: FirstPackets, uid: WorkloadUID, held: _Held) -> None:
        held.touched = set()
        view = self._store.current if self._enabled else None
        problem = ""
        try:
            self._take(uid, held, await self._off(renew, kernel, view, held.workload))
            if held.ring is None and isinstance(held.compiled, Prefilter) and held.compiled.denials:
                held.ring = await self._off(refusals, kernel, held.workload)
                asyncio.get_running_loop().add_reader(held.ring.fileno(), self._on_refused, uid, held)
        except OSError as error:
            problem = str(error)
        finally:
            touched, held.touched = held.touched or set(), None
        if problem and problem != held.problem:
            log.warning("workload %s: what is refused at the first packet can't be set: %s", uid, problem)
        held.problem = problem
        if not held.depends_on.isdisjoint(touched):
            self._stale.add(uid)
            self._wake.set()

    def _take(self, uid: WorkloadUID, held: _Held, renewed: Renewed) -> None:
        held.compiled, held.depends_on = renewed.compiled, renewed.depends_on
        if isinstance(renewed.compiled, Prefilter):
            names = {denial_number(denial.policy): denial for denial in renewed.compiled.denials}
            held.names = (held.names if len(held.names) < MAX_NAMES else {}) | names
        if renewed.denied:
            self._telling.counts(uid, renewed.denied, held.names)
        if held.shed is not None:
            self._telling.untold(renewed.shed - held.shed)
        held.shed = renewed.shed

    # ---- reading what was refused

    def _on_refused(self, uid: WorkloadUID, held: _Held) -> None:
        if held.ring is not None:
            # What a program of another layout wrote before this one is nothing to us.
            records = (record for record in held.ring.read() if len(record) == REFUSAL_BYTES)
            self._telling.lines(uid, map(decode, records), held.names)

    async def _off(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))


def _wake(waiting: Iterable[asyncio.Future[None]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)


def _stop_reading(held: _Held) -> None:
    if held.ring is not None:
        with suppress(RuntimeError):  # the loop has ended
            asyncio.get_running_loop().remove_reader(held.ring.fileno())
        held.ring.close()
        held.ring = None
