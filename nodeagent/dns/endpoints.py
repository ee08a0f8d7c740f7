"""The endpoints of headless services, asked of the controller by need: of those that somebody asks for, and no others."""

import asyncio
from collections.abc import Collection, Iterable
from typing import Final, Protocol

from meshapi.workload import Service, ServiceKey, Workload
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore

WAIT_S: Final = 2.0


class Subscriptions(Protocol):
    """Which keys the controller is to tell of."""

    @property
    def connected(self) -> bool: ...

    def need(self, keys: Iterable[str]) -> None: ...

    def drop(self, keys: Iterable[str]) -> None: ...


class HeadlessEndpoints:
    """What lookups see of the snapshot. Names that are asked for come from the directory, so that the keys are those of services."""

    def __init__(self, store: SnapshotStore, subscriptions: Subscriptions) -> None:
        self._store = store
        self._subscriptions = subscriptions
        self._waiting: dict[ServiceKey, asyncio.Event] = {}
        store.watch(self._on_snapshot)

    def service(self, key: ServiceKey) -> Service | None:
        return self._store.current.service(key)

    def members(self, key: ServiceKey) -> Iterable[Workload]:
        return self._store.current.members(key)

    async def come(self, key: ServiceKey) -> bool:
        """Asks for a service, which then stays subscribed for a while, and waits for it; whether it is known now."""
        self._subscriptions.need((key,))
        try:
            known = self.service(key) is not None or key in self._store.current.absent
            if not known and self._subscriptions.connected:
                arrived = self._waiting.setdefault(key, asyncio.Event())
                async with asyncio.timeout(WAIT_S):
                    await arrived.wait()
        except TimeoutError:
            self._waiting.pop(key, None)
        finally:
            self._subscriptions.drop((key,))
        return self.service(key) is not None

    def _on_snapshot(self, _snapshot: Snapshot, touched: Collection[str]) -> None:
        if not self._waiting:
            return
        for key in [key for key in self._waiting if key in touched]:
            self._waiting.pop(key).set()
