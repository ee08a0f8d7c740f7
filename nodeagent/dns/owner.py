"""Owns the DNS of this node's workloads: serves those whose questions are captured, from when they are until they are not.

An agent that ends says so in the rules of each, so that questions go to the pod's own resolvers from then on, and none is lost.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn, ParamSpec, TypeVar

from nodeagent.capture import presence
from nodeagent.capture.units import dns_port
from nodeagent.dns.counts import CountsByWorkload
from nodeagent.dns.forwarding import Forwarder
from nodeagent.dns.server import Knowledge, WorkloadDNS
from nodeagent.dns.sockets import Asked, open_asked
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.units import Unit
from nodeagent.runtime.base import LocalWorkload

log = logging.getLogger(__name__)

RETRY_S: Final = 0.5
AGAIN_S: Final = 5.0
"""How long a workload whose DNS has ended by an error asks its own resolvers."""
THREADS: Final = 4
_CAPTURED: Final = frozenset({EnrolmentState.CAPTURED, EnrolmentState.CLOSED, EnrolmentState.OPEN})
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Served:
    workload: LocalWorkload
    namespace: Namespace
    serving: WorkloadDNS
    task: "asyncio.Task[None]"


class DNSOwner:
    """Used from one event loop; what blocks runs in threads of its own. `enrolled`: the workloads of this node as they are.

    `why_not`: the reason why none is to be served, in words. `redirected`: questions come by redirection, which hides whom they were for.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        enrolled: Callable[[], Iterable[WorkloadStatus]],
        *,
        why_not: str = "",
        redirected: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._knowledge = knowledge
        self._enrolled = enrolled
        self._why_not = why_not
        self._redirected = redirected
        self._clock = clock
        self._served: dict[str, _Served] = {}
        self._problems: dict[str, str] = {}
        self._held_back_s: dict[str, float] = {}
        """Until when what has failed is not begun again."""
        self._wake = asyncio.Event()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dns")
        self.counts = CountsByWorkload()

    def touch(self) -> None:
        """Which workloads are captured may have changed."""
        self._wake.set()

    def summary(self) -> str:
        """Whose questions are answered here, for an operator."""
        if self._why_not:
            return f"pods ask their own resolvers: {self._why_not}"
        words = f"{len(self._served)} workloads served, {len(self._knowledge.directory)} names of the mesh"
        problems = (*self._problems.values(), *(served.serving.problem for served in self._served.values()))
        return words + "".join(f"; {problem}" for problem in dict.fromkeys(filter(None, problems)))

    async def run(self) -> NoReturn:
        """Until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    while True:
                        self._wake.clear()
                        await self._follow(tasks)
                        with suppress(TimeoutError):
                            async with asyncio.timeout(RETRY_S if self._problems else None):
                                await self._wake.wait()
                finally:
                    for served in self._served.values():
                        _say_away(served.namespace)
        finally:
            for served in self._served.values():
                served.namespace.close()
            self._threads.shutdown(wait=True)
        raise AssertionError("only cancellation ends the wait")

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        wanted = {one.workload.uid: one.workload for one in self._enrolled() if self._is_wanted(one)}
        for uid, served in list(self._served.items()):
            if uid not in wanted or wanted[uid].network != served.workload.network:
                await self._end(uid, served)
        self._problems = {uid: problem for uid, problem in self._problems.items() if uid in wanted}
        now_s = self._clock()
        self._held_back_s = {uid: until_s for uid, until_s in self._held_back_s.items() if uid in wanted and now_s < until_s}
        for uid, workload in wanted.items():
            if uid not in self._served and uid not in self._held_back_s:
                await self._begin(uid, workload, tasks)

    def _is_wanted(self, status: WorkloadStatus) -> bool:
        workload = status.workload
        captured = status.state in _CAPTURED and workload.network is not None
        return not self._why_not and captured and workload.terms.dns

    async def _begin(self, uid: str, workload: LocalWorkload, tasks: asyncio.TaskGroup) -> None:
        try:
            namespace, asked = await self._off(_open, workload, redirected=self._redirected)
        except OSError as error:
            if self._problems.get(uid) != str(error):
                log.warning("workload %s: its questions to DNS can't be answered: %s", uid, error)
            self._problems[uid] = str(error)
            return
        self._problems.pop(uid, None)
        counts = self.counts.of(workload.name, workload.namespace)
        forwarder = Forwarder(namespace, self._off, counts, self._clock)
        serving = WorkloadDNS(workload, asked, self._knowledge, forwarder, counts, self._clock)
        task = tasks.create_task(self._serve(uid, serving), name=f"dns of {uid}")
        self._served[uid] = _Served(workload, namespace, serving, task)

    async def _serve(self, uid: str, serving: WorkloadDNS) -> None:
        try:
            await serving.run()
        except Exception:  # of one workload; the others are served on
            log.exception("workload %s: its DNS has ended, and begins anew in a while", uid)
            if (served := self._served.pop(uid, None)) is not None:
                await self._off(_say_away, served.namespace)
                served.namespace.close()
            self._problems[uid] = "ended by an error"
            self._held_back_s[uid] = self._clock() + AGAIN_S
            self._wake.set()

    async def _end(self, uid: str, served: _Served) -> None:
        del self._served[uid]
        self.counts.forget(served.workload.name, served.workload.namespace)
        await self._off(_say_away, served.namespace)
        served.task.cancel()
        await asyncio.wait((served.task,))
        served.namespace.close()

    async def _off(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))


def _open(workload: LocalWorkload, *, redirected: bool) -> tuple[Namespace, Asked]:
    """The workload's namespace and sockets, from when on its questions come there; raises OSError. Blocks."""
    namespace = workload.open()
    try:
        if namespace.key != workload.network:
            raise KernelError(errno.ESTALE, workload.netns, detail="was replaced just now")
        if isinstance(namespace, Unit):
            asked = namespace.run(open_asked, dns_port(namespace), redirected=True)
        else:
            asked = namespace.run(open_asked, redirected=redirected)
    except OSError:
        namespace.close()
        raise
    with suppress(OSError):  # what was noted is forgotten by itself soon
        presence.say_here(namespace)
    return namespace, asked


def _say_away(namespace: Namespace) -> None:
    """Sends the workload's questions to its own resolvers; where its rules or all of it have gone, they go there already. Blocks."""
    with suppress(OSError):
        presence.say_away(namespace)
