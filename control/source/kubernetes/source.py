"""The Kubernetes API as a source: one follower per kind, and all that they bring in one stream of changes."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator

from control.metrics import Metrics
from control.source import Change, Remove, Synced
from control.source.kubernetes.definitions import Definitions
from control.source.kubernetes.resources import BUILT_IN, CUSTOM, DEFINITIONS_PATH, ResourceType, mesh_config
from control.source.kubernetes.translation import key_of, translate
from kubeapi.client import KubeClient
from kubeapi.follower import Follower
from kubeapi.watching import Delivery, Watching

DEFINITIONS_A_PAGE = 20
"""They hold whole schemas: hundreds of kilobytes each, in some clusters."""
log = logging.getLogger(__name__)
_Brought = tuple[ResourceType, Delivery] | None
"""None: only look again at what is awaited."""


class KubernetesSource:
    """Reads all kinds through `client`, which is open; one use of `changes` at a time."""

    def __init__(self, client: KubeClient, root_namespace: str, metrics: Metrics) -> None:
        self._client = client
        self._root_namespace = root_namespace
        self._metrics = metrics
        # Without a bound: who reads it runs in this very loop, and a delivery that waits could be lost with its follower.
        self._queue: asyncio.Queue[_Brought] = asyncio.Queue()
        self._definitions = Definitions()
        self._custom: dict[str, _Custom] = {}
        self._awaited: set[str] = set()
        """What has not been listed yet: `Synced` comes when nothing is awaited any more."""

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """Everything in one batch, ended by Synced, once all kinds were listed; then what changes."""
        built_in = (*BUILT_IN, mesh_config(self._root_namespace))
        self._awaited = {DEFINITIONS_PATH, *(resource.path for resource in built_in)}
        async with asyncio.TaskGroup() as tasks:
            for resource in built_in:
                tasks.create_task(self._follow(resource, Watching(random.random)), name=f"follow {resource.plural}")
            tasks.create_task(self._follow_definitions(tasks), name="follow definitions")
            first: list[Change] = []
            while self._awaited or not self._queue.empty():
                first += self._translate(await self._queue.get())
            yield (*first, Synced())
            del first
            while True:
                batch = self._translate(await self._queue.get())
                while not self._queue.empty():
                    batch += self._translate(self._queue.get_nowait())
                if batch:
                    yield tuple(batch)

    def _translate(self, brought: _Brought) -> list[Change]:
        # Here and not in the follower: it asks for the next page meanwhile.
        if brought is None:
            return []
        resource, delivery = brought
        changes = [translate(resource, item, self._root_namespace) for item in delivery.present]
        return changes + [Remove(key_of(resource, name)) for name in delivery.gone]

    async def _follow(self, resource: ResourceType, watching: Watching) -> None:
        def deliver(delivery: Delivery) -> None:
            if watching.listed and resource.path in self._awaited:
                self._awaited.discard(resource.path)
                log.info("%s: %d objects", resource.path, len(watching.known))
            self._queue.put_nowait((resource, delivery))

        await Follower(self._client, resource.path, watching, deliver, self._metrics, query=resource.query).run()

    async def _follow_definitions(self, tasks: asyncio.TaskGroup) -> None:
        watching = Watching(random.random, page_size=DEFINITIONS_A_PAGE)

        def deliver(delivery: Delivery) -> None:
            self._definitions.learn(delivery)
            if watching.listed:
                self._reconcile(tasks)

        await Follower(self._client, DEFINITIONS_PATH, watching, deliver, self._metrics).run()

    def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        """Follows the custom kinds that are served, and lets go of those that are not."""
        served = self._definitions.served
        for name, custom in tuple(self._custom.items()):
            if name not in served:
                log.info("%s is not served any more", custom.resource.path)
                self._let_go(name)
                self._queue.put_nowait((custom.resource, Delivery(gone=tuple(custom.watching.known))))
        for name, resource in served.items():
            before = self._custom.get(name)
            if before is not None and before.resource == resource:
                continue
            # Read in another version: nothing is gone by that, and everything is to be read again.
            known = dict.fromkeys(self._let_go(name).watching.known, "") if before else None
            watching = Watching(random.random, known)
            if not self._awaited.isdisjoint({DEFINITIONS_PATH, name}):
                self._awaited.add(resource.path)
            task = tasks.create_task(self._follow(resource, watching), name=f"follow {resource.plural}")
            self._custom[name] = _Custom(resource, watching, task)
        if DEFINITIONS_PATH in self._awaited:
            # A start without them would tell agents that the policies that they hold are gone.
            self._awaited |= self._definitions.unreadable
        self._awaited -= {DEFINITIONS_PATH, *(CUSTOM.keys() - self._definitions.unreadable)}
        self._queue.put_nowait(None)

    def _let_go(self, name: str) -> "_Custom":
        custom = self._custom.pop(name)
        custom.task.cancel()
        self._awaited.discard(custom.resource.path)
        return custom


class _Custom:
    """A custom kind that is followed."""

    def __init__(self, resource: ResourceType, watching: Watching, task: asyncio.Task[None]) -> None:
        self.resource = resource
        self.watching = watching
        self.task = task
