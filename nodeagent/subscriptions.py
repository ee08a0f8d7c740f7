"""Keeps the controller told which keys are needed here: counted, given up after a while."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final, NoReturn, Protocol

from nodeagent.snapshot.interest import Interest
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update

SWEEP_S: Final = 1.0


class Source(Protocol):
    """Where keys are subscribed: the xds client."""

    def subscribe(self, keys: Collection[str]) -> None: ...

    def unsubscribe(self, keys: Collection[str]) -> None: ...


class Subscriptions:
    """Belongs to the event loop's thread. `connected` says whether there is a controller that would tell again what is forgotten."""

    def __init__(
        self,
        source: Source,
        store: SnapshotStore,
        *,
        interest: Interest,
        connected: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._connected = connected
        self._store = store
        self._interest = interest
        self._clock = clock

    def __len__(self) -> int:
        return len(self._interest)

    @property
    def connected(self) -> bool:
        """Whether what is asked for may come soon."""
        return self._connected()

    def need(self, keys: Iterable[str]) -> None:
        """Each call is to be undone by one `drop` of the same keys."""
        self._follow(*self._interest.need(keys, make_room=self._connected()))

    def drop(self, keys: Iterable[str]) -> None:
        """The keys are not needed any more; they stay subscribed for a while."""
        self._interest.drop(keys, self._clock())

    def remember(self, keys: Collection[str]) -> None:
        """Takes up the subscriptions of an earlier run of the agent."""
        self._interest.remember(keys, self._clock())
        self._source.subscribe(keys)

    def sweep(self) -> None:
        """Gives up what has been idle long enough. While the controller is away nothing is: what is known could not be had again."""
        if not self._connected():
            return
        self._follow(*self._interest.expire(self._clock()))

    async def run(self) -> NoReturn:
        """Sweeps until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def _follow(self, fresh: list[str], gone: list[str]) -> None:
        if fresh:
            self._source.subscribe(fresh)
        if gone:
            self._source.unsubscribe(gone)
            # What was said to be absent may appear later, and nobody would tell.
            self._store.apply(Update(forgotten=tuple(gone)))
