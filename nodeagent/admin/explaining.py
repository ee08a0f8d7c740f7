"""`explain` for whoever asks: finds the source, fetches on demand what is not known yet, and explains from what came."""

import asyncio
from contextlib import suppress
from typing import Final

from meshapi.workload import IPAddress, Workload, WorkloadUID
from nodeagent.policy.addresses import AddressError, parse_address
from nodeagent.resolve.explain import AtSYN, Capture, explain, nowhere
from nodeagent.resolve.explanation import Explanation, Outcome, Step
from nodeagent.resolve.target import pod_uid
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.subscriptions import Subscriptions

FETCH_DEADLINE_S: Final = 2.0
MAX_ROUNDS: Final = 8


class Explainer:
    """Asks the controller for what an explanation lacks, for a while."""

    def __init__(self, store: SnapshotStore, subscriptions: Subscriptions, *, cluster: str, at_syn: AtSYN = nowhere) -> None:
        """`at_syn`: what the kernel of this node refuses."""
        self._at_syn = at_syn
        self._store = store
        self._subscriptions = subscriptions
        self._cluster = cluster

    async def explain(self, source: str, destination: str, here: Capture | None) -> Explanation:
        """Explains from what is known, and what can be fetched within two seconds. `here`: see `resolve.explain`."""
        asked: list[str] = []
        try:
            async with asyncio.timeout(FETCH_DEADLINE_S):
                for _ in range(MAX_ROUNDS):
                    found = self._explain(source, destination, here)
                    if all(key in self._store.current.absent for key in found.unknown):
                        return found
                    fresh = [key for key in found.unknown if key not in asked]
                    asked += fresh
                    self._subscriptions.need(fresh)
                    await self._change_of(found.unknown)
        except TimeoutError:
            pass
        finally:
            self._subscriptions.drop(asked)
        return self._explain(source, destination, here)

    def _explain(self, source: str, destination: str, here: Capture | None) -> Explanation:
        snapshot = self._store.current
        with suppress(AddressError):
            return self._from_address(parse_address(source), destination, here)
        uid = WorkloadUID(source) if source.count("/") > 1 else pod_uid(self._cluster, source)
        return explain(snapshot, uid, destination, here=here, at_syn=self._at_syn)

    def _from_address(self, address: IPAddress, destination: str, here: Capture | None) -> Explanation:
        found = self._store.current.workload_at("", address)
        if isinstance(found, Workload):
            return explain(self._store.current, found.uid, destination, here=here, at_syn=self._at_syn)
        key = f"/{address}"
        if key in self._store.current.absent:
            return Explanation(Outcome.UNKNOWN, (Step("source", f"{address} is no workload's address"),))
        return Explanation(Outcome.UNKNOWN, (Step("source", f"whose address {address} is, is not known"),), (key,))

    async def _change_of(self, keys: tuple[str, ...]) -> None:
        """Returns after an update that touched one of the keys."""
        came = asyncio.Event()
        end = self._store.watch(lambda _, touched: came.set() if not touched.isdisjoint(keys) else None)
        try:
            await came.wait()
        finally:
            end()
