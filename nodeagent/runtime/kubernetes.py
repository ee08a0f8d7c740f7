"""The Kubernetes runtime: the pods of this node that are in the mesh, each with its network namespace once that is found and proved."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

from meshapi.wire import DEFAULT_CLUSTER
from nodeagent.capture.annotations import read_terms
from nodeagent.cni.attachments import Attachments
from nodeagent.runtime.base import LocalWorkload
from nodeagent.runtime.places import Place, Places, Sought
from nodeagent.runtime.pods import Pod, PodBook, Standing
from nodeagent.runtime.probe_ports import probe_ports
from nodeagent.turn import Turn

_LOOK_S: Final = 0.1
"""Between two looks at whether namespaces are still there: a `stat` each, which costs a microsecond."""


class Server(Protocol):
    """The API server, as far as it is asked."""

    @property
    def problem(self) -> str:
        """Why it can't be read now, in words; empty if it can."""

    async def refresh(self, namespace: str) -> None:
        """Has the namespace as it is now written into the book."""


class KubernetesRuntime:
    """See `Runtime`. `book` is written by who watches the API server, which calls `look` after."""

    def __init__(
        self,
        book: PodBook,
        attachments: Attachments,
        server: Server,
        turn: Turn,
        *,
        cluster: str = DEFAULT_CLUSTER,
    ) -> None:
        self._book = book
        self._attachments = attachments
        self._server = server
        self._turn = turn
        self._cluster = cluster
        self._wake = asyncio.Event()
        self._missing: dict[str, str] = {}

    @property
    def problem(self) -> str:
        return self._server.problem

    def look(self) -> None:
        """Pods, namespaces or attachments may have changed."""
        self._wake.set()
        self._turn.tell()

    def standing(self, namespace: str, name: str, uid: str) -> Standing:
        """See `PodBook.standing`."""
        return self._book.standing(namespace, name, uid)

    def lacks(self, uid: str) -> str:
        """What keeps a pod from being found, in words; empty if nothing does."""
        return self._missing.get(uid, "")

    async def refresh(self, namespace: str) -> None:
        """See `Server.refresh`. A server that does not answer anyway is not waited for: what is known stays in force."""
        if not self._server.problem:
            await self._server.refresh(namespace)

    async def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        """See `Runtime`. Nothing before all is known: a set that lacks pods would take them out of the mesh."""
        places = Places()
        yielded: tuple[LocalWorkload, ...] | None = None
        try:
            while True:
                woken = self._wake.is_set()
                self._wake.clear()
                if self._book.synced and (woken or yielded is None or places.due() or places.moved()):
                    current = await self._current(places)
                    if current != yielded:
                        yielded = current
                        yield current
                await self._pause()
        finally:
            places.close()

    async def _current(self, places: Places) -> tuple[LocalWorkload, ...]:
        pods = self._book.wanted()
        found = await asyncio.to_thread(places.find, [self._sought(pod) for pod in pods])
        self._missing = dict(places.missing)
        self._book.keep_parting(found)
        made: dict[str, LocalWorkload] = {}
        for pod in pods:
            workload = self._workload(pod, found.get(pod.uid))
            before = made.get(workload.uid)
            # One that has ended is kept as long as its namespace is there, but gives way to the next of its name when that has one.
            if before is None or (before.network is None and workload.network is not None):
                made[workload.uid] = workload
        self._turn.tell()
        return tuple(sorted(made.values(), key=lambda workload: workload.uid))

    def _sought(self, pod: Pod) -> Sought:
        told = self._attachments.of_pod(pod.uid)
        return Sought(pod.uid, pod.addresses, told.netns, told.addresses) if told else Sought(pod.uid, pod.addresses)

    def _workload(self, pod: Pod, place: Place | None) -> LocalWorkload:
        meta = pod.metadata
        terms, problem = read_terms(meta.annotations, cgroup=place.cgroup if place else "")
        return LocalWorkload(
            uid=f"{self._cluster}//Pod/{meta.namespace}/{meta.name}",
            name=meta.name,
            namespace=meta.namespace,
            service_account=pod.spec.service_account_name,
            netns=place.path if place else "",
            network=place.key if place else None,
            terms=terms,
            terms_problem=problem,
            probe_ports=probe_ports((*pod.spec.containers, *pod.spec.init_containers)),
            instance=pod.uid,
            started_ticks=place.started_ticks if place else 0,
        )

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            return
