"""Owns the enrolled workloads of this node: watches the runtime, plans, applies, retries, and serves the proxy's sessions with them.

One reconciliation at a time, level-triggered: whatever happened, the plan is made anew from what is desired and what is there.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Final, ParamSpec, TypeVar

from nodeagent.capture.base import Capture
from nodeagent.enrolment import records
from nodeagent.enrolment.entry import Description, Entry, adopt, make
from nodeagent.enrolment.plan import Adjust, Announce, Change, Enforce, Enrolled, Open, PassBy, Plan, Release, Step, plan, uid_of
from nodeagent.enrolment.recalled import Recalled
from nodeagent.enrolment.records import Record, Store
from nodeagent.enrolment.removal import Removals
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus, describe_enrolment
from nodeagent.enrolment.timing import Absence, Timing
from nodeagent.enrolment.troubles import Troubles
from nodeagent.linux.cgroups import own_directory
from nodeagent.linux.namespaces import Namespace, key_at
from nodeagent.runtime.base import LocalWorkload, Runtime
from nodeagent.ztunnel.protocol import Held, HeldWorkload, RemoveWorkload
from nodeagent.ztunnel.transport import Sender, SessionClosed

log = logging.getLogger(__name__)
_DIAL_S: Final = 0.5
"""A proxy dials every 100 ms."""
_FIRST_WORD_S: Final = 1.0
_MAX_ROUNDS: Final = 8
_DOWN_POLL_S: Final = 0.05
_LEAVING_POLL_S: Final = 0.25
P = ParamSpec("P")
T = TypeVar("T")

Describe = Callable[[LocalWorkload, tuple[str, ...]], Description | None]
"""From a workload and the addresses of its namespace; None while nothing can be said. Called often: must be cheap."""


class Enrolment:
    """See the module. Used from one event loop; what blocks runs in one thread of its own."""

    def __init__(
        self,
        runtime: Runtime,
        capture: Capture,
        describe: Describe,
        store: Store,
        timing: Timing | None = None,
        *,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        """`turned` is called after each reconciliation: what `status` says may have changed."""
        self._runtime = runtime
        self._capture = capture
        self._describe = describe
        self._store = store
        self._timing = timing or Timing()
        self._turned = turned
        self._desired: dict[str, LocalWorkload] = {}
        self._entries: dict[str, Entry] = {}
        self._removals = Removals(capture, retry_s=self._timing.resync_s)
        self._troubles = Troubles()
        self._refused: dict[str, str] = {}
        self._recorded: tuple[Record, ...] = ()
        self._recalled = Recalled(self._removals)
        self._session: Sender | None = None
        self._absence = Absence(time.monotonic())
        self._down = False
        self._known = asyncio.Event()
        self._began = asyncio.Event()
        self._last_generation = 0
        self._resync_at_s = 0.0
        self._wake = asyncio.Event()
        self._busy = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="enrolment")
        with Namespace.own() as own:
            self._node = own.key
        self._cgroup = own_directory()

    async def run(self) -> None:
        """Until cancelled. Cancelling changes nothing in the kernel: captures stay in force."""
        try:
            await self._recall()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(), name="enrolment: runtime")
                if self._recorded:
                    # A proxy that outlived the former agent holds the listeners, and gives them back when it dials.
                    await _within(self._began, _DIAL_S)
                tasks.create_task(self._loop(), name="enrolment: reconcile")
        finally:
            self._thread.shutdown(wait=True)
            for entry in self._entries.values():
                entry.close()
            self._removals.close()

    def touch(self) -> None:
        """What `describe` answers may have changed: a certificate came, a label changed."""
        self._wake.set()

    async def begin_session(self, session: Sender, workloads: Sequence[HeldWorkload], held: Sequence[tuple[Held, tuple[int, ...]]]) -> None:
        """Sends every workload to a proxy that dialled: after its `hello` and `held` messages, before `synced`.

        Adopts what the proxy holds and this agent does not; the descriptors stay the caller's. Raises SessionClosed.
        """
        # The runtime's word tells which of the held are still wanted; without it, that of a former agent does.
        await _within(self._known, _FIRST_WORD_S)
        async with self._busy:
            for message, fds in held:
                await self._adopt(message, fds)
            holds = {(workload.uid, workload.generation) for workload in workloads}
            for uid, entry in self._entries.items():
                entry.sent_descriptors = (uid, entry.generation) in holds
                entry.announced = None
            self._session = session
            self._absence.ends()
            self._began.set()
            await self._reconcile()
            if self._session is not session:
                raise SessionClosed("the session ended while the workloads were sent")

    def end_session(self, session: Sender) -> None:
        """The session is over; a later one replaces it. Captures stay, listeners stay open."""
        if self._session is session:
            self._lose_session()
            for entry in self._entries.values():
                entry.announced = None

    def _lose_session(self) -> None:
        self._session = None
        self._absence.begins(time.monotonic())
        self._wake.set()

    async def down(self, drain_s: float) -> None:
        """Releases every workload and returns when their captures are off; from then on the runtime is not followed."""
        self._down = True
        self._known.set()
        self._desired = {}
        self._timing = replace(self._timing, drain_s=drain_s)
        self._disown()
        self._removals.hasten(time.monotonic() + drain_s)
        while True:
            async with self._busy:
                await self._reconcile()
            if not self._entries and not self._removals:
                return
            await asyncio.sleep(_DOWN_POLL_S)

    async def look(self) -> None:
        """Asks the kernel now, so that `status` shows the counters of this moment."""
        async with self._busy:
            await self._resync()

    def plan(self) -> Plan:
        """What would be done now."""
        enrolled = {uid: self._enrolled(entry) for uid, entry in self._entries.items()}
        return plan(self._desired, enrolled, node=self._node, agent=self._cgroup)

    def status(self) -> tuple[WorkloadStatus, ...]:
        """Each workload that is desired, enrolled or leaving, sorted by uid."""
        desired = [self._status(workload) for uid, workload in self._desired.items() if uid not in self._entries]
        enrolled = [self._status(entry.workload) for entry in self._entries.values()]
        leaving = [WorkloadStatus(one, EnrolmentState.LEAVING, self._capture.name, problem=why) for one, why in self._removals]
        leaving += [
            WorkloadStatus(one, EnrolmentState.LEAVING, self._capture.name)
            for one in self._recalled
            if one.uid not in self._desired and one.uid not in self._entries
        ]
        return tuple(sorted((*desired, *enrolled, *leaving), key=lambda status: status.workload.uid))

    def _status(self, workload: LocalWorkload) -> WorkloadStatus:
        problem = self._refused.get(workload.uid) or self._troubles.problem(workload.uid)
        return describe_enrolment(
            workload, self._entries.get(workload.uid), problem, self._capture.name, connected=self._session is not None
        )

    # ---- the runtime and the loop

    async def _recall(self) -> None:
        """Starts from what a former agent enrolled, until the runtime speaks; takes off what was already leaving."""
        self._recorded = await self._off(records.load, self._store)
        self._desired |= {workload.uid: workload for workload in self._recalled.take(self._recorded)}

    def _disown(self) -> None:
        """What a former agent enrolled and nobody wants any more goes, as soon as it is known what is wanted."""
        if self._known.is_set():
            wanted = {workload.network for workload in self._desired.values()}
            self._recalled.disown(wanted, until_s=time.monotonic() + self._timing.drain_s)

    async def _follow(self) -> None:
        async for workloads in self._runtime.watch():
            if not self._down:
                self._known.set()
                self._desired = {workload.uid: workload for workload in workloads}
                self._wake.set()

    async def _loop(self) -> None:
        while True:
            self._wake.clear()
            async with self._busy:
                await self._reconcile()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, self._next_s() - time.monotonic())):
                    await self._wake.wait()

    def _next_s(self) -> float:
        """When there is something to do even if nothing happens."""
        times = [self._resync_at_s, *self._removals.times_s, *self._troubles.times_s]
        times += [entry.opened_s + self._timing.identity_deadline_s for entry in self._entries.values() if not entry.captured]
        times += [at_s] if (at_s := self._absence.until_s(self._timing.open_after_s)) is not None else []
        now_s = time.monotonic()
        times += [now_s + _LEAVING_POLL_S] if self._removals.draining else []
        return min((at_s for at_s in times if at_s > now_s), default=now_s + self._timing.resync_s)

    # ---- one reconciliation

    async def _reconcile(self) -> None:
        if time.monotonic() >= self._resync_at_s:
            await self._resync()
        self._disown()
        for _ in range(_MAX_ROUNDS):
            made = self.plan()
            self._refused = made.refused
            if not made.steps or not await self._apply(made):
                break
        self._troubles.keep(self._desired, self._entries)
        self._hurry(await self._off(self._removals.finish, time.monotonic()))
        await self._record()
        self._turned()

    async def _apply(self, made: Plan) -> bool:
        """Tries each step that is not held back; whether any was done, so that there may be a next."""
        done = False
        held_back = self._troubles.held_back(time.monotonic())
        for step in made.steps:
            if (uid := uid_of(step)) in held_back:
                continue
            try:
                await self._do(step)
            except SessionClosed as end:
                log.info("workload %s: not announced: %s", uid, end)
                self._lose_session()
            except OSError as error:
                self._fail(uid, str(error))
                held_back.add(uid)
            else:
                done = True
                if isinstance(step, Enforce | PassBy):
                    self._troubles.end(uid)
        return done

    def _fail(self, uid: str, problem: str) -> None:
        if self._troubles.add(uid, problem, time.monotonic()):
            log.warning("workload %s: %s", uid, problem)

    async def _do(self, step: Step) -> None:
        match step:
            case Release(uid, gone, reason):
                log.info("workload %s: released: %s", uid, reason)
                await self._release(uid, gone=gone)
            case Open(workload):
                await self._open(workload)
            case Change(workload):
                self._change(self._entries[workload.uid], workload)
            case Adjust(workload):
                self._entries[workload.uid].adjust(workload)
                await self._record()
            case Announce(uid):
                entry = self._entries[uid]
                description = self._describe(entry.workload, entry.addresses)
                if self._session is not None and description is not None:
                    entry.announce(self._session, description)
            case Enforce(uid):
                entry = self._entries[uid]
                await self._off(entry.enforce, self._capture)
                log.info("workload %s: captured by %s in %s", uid, self._capture.name, entry.workload.netns)
            case PassBy(uid):
                await self._off(self._entries[uid].pass_by, self._capture)
                log.warning("workload %s: fails open: no proxy is connected, and its connections pass by the mesh", uid)

    async def _open(self, workload: LocalWorkload) -> None:
        entry = await self._off(make, workload, self._capture, generation=self._generation(), now_s=time.monotonic())
        self._add(entry)
        await self._record()

    async def _adopt(self, held: Held, fds: tuple[int, ...]) -> None:
        workload = self._desired.get(held.uid)
        if workload is None or workload.network is None or held.uid in self._entries:
            return
        try:
            entry = await self._off(adopt, workload, self._capture, held, fds, now_s=time.monotonic())
        except OSError as error:
            log.warning("workload %s: what the proxy holds can't be used: %s", held.uid, error)
            return
        if entry is not None:
            self._last_generation = max(self._last_generation, entry.generation)
            if not self._recalled.is_same(workload):
                self._renew(entry)  # the sockets are right; what the proxy carries may be under another identity
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        if entry.captured or entry.opened:
            entry.captured_since_s = time.time()
        self._entries[entry.workload.uid] = entry
        self._troubles.end(entry.workload.uid)
        self._removals.forget(entry.namespace.key)
        self._recalled.enrolled(entry.namespace.key)

    def _change(self, entry: Entry, workload: LocalWorkload) -> None:
        """Another identity in the same namespace is another pod: closed at once, captured throughout, served when it is announced."""
        if self._session is not None:
            self._session.send(RemoveWorkload(uid=workload.uid, drain_s=0.0))
        entry.adjust(workload)
        self._renew(entry)

    def _renew(self, entry: Entry) -> None:
        """To the proxy it is another pod from now on: what is open of the former one goes when this one is announced."""
        entry.generation = self._generation()
        entry.announced = None
        entry.adopted = entry.sent_descriptors = False

    async def _release(self, uid: str, *, gone: bool) -> None:
        entry = self._entries[uid]
        # A pod that ended leaves the list and the node at about the same time: its address may be another's by the end of a drain.
        gone = gone or key_at(entry.workload.netns) != entry.namespace.key
        drain_s = 0.0 if gone else self._timing.drain_s
        await self._off(self._capture.drain, entry.namespace, entry.workload.terms)
        del self._entries[uid]
        entry.close_listeners()
        self._removals.add(entry.workload, entry.namespace, until_s=time.monotonic() + drain_s)
        if self._session is not None:
            self._session.send(RemoveWorkload(uid=uid, drain_s=drain_s))

    def _hurry(self, uids: Iterable[str]) -> None:
        """Ends the proxy's drain of workloads whose namespaces are gone; not of others that have come under their names."""
        for uid in uids:
            if self._session is not None and uid not in self._entries:
                with suppress(SessionClosed):
                    self._session.send(RemoveWorkload(uid=uid, drain_s=0.0))

    async def _resync(self) -> None:
        self._resync_at_s = time.monotonic() + self._timing.resync_s
        for uid, entry in self._entries.items():
            was_captured = entry.captured
            try:
                await self._off(entry.look, self._capture)
                await self._off(entry.locate)
            except OSError as error:
                self._fail(uid, str(error))
                continue
            if was_captured and not entry.captured and not entry.opened:
                problem = entry.inspection.problem or f"the capture is {entry.inspection.state}"
                log.warning("workload %s: someone changed its capture: %s; putting it back", uid, problem)

    # ---- small things

    def _enrolled(self, entry: Entry) -> Enrolled:
        description = self._describe(entry.workload, entry.addresses)
        ready = description is not None and (description.identity_ready or entry.adopted)
        now_s = time.monotonic()
        return Enrolled(
            workload=entry.workload,
            captured=entry.captured,
            announced=entry.announced is not None and (entry.announced == description or not ready),
            announceable=self._session is not None and ready,
            overdue=entry.captured_since_s is not None or now_s >= entry.opened_s + self._timing.identity_deadline_s,
            opened=entry.opened,
            to_open=entry.workload.terms.fail_open and self._absence.has_lasted(self._timing.open_after_s, now_s),
        )

    def _generation(self) -> int:
        """Grows also across restarts of the agent, since the proxy compares it with what it holds from before."""
        self._last_generation = max(self._last_generation + 1, time.time_ns() // 1_000_000)
        return self._last_generation

    async def _record(self) -> None:
        """Written before a capture is applied and after it is removed, so that nothing of ours is ever forgotten."""
        expected = () if self._known.is_set() else self._desired.values()
        current = records.of((entry.workload for entry in self._entries.values()), self._removals.records(), expected)
        if current != self._recorded:
            await self._off(records.save, self._store, current)
            self._recorded = current

    async def _off(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))


async def _within(event: asyncio.Event, deadline_s: float) -> None:
    """Waits for the event, but not longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            await event.wait()
