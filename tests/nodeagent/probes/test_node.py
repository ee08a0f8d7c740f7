"""From where plaintext counts as probes, and when it does not."""

import asyncio
import errno
from ipaddress import ip_address

import pytest

from nodeagent.linux import netlink
from nodeagent.linux.errors import KernelError
from nodeagent.probes import node
from nodeagent.probes.node import NodeSources, sources
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from tests.nodeagent.pods import pair
from tests.nodeagent.waiting import until

A, B, V6 = ip_address("10.0.0.1"), ip_address("192.0.2.1"), ip_address("fd00::1")


@pytest.mark.parametrize(
    ("detected", "configured", "better", "found"),
    [
        (("10.0.0.1", "fd00::1"), (), False, {A, V6}),
        (("10.0.0.1", "fd00::1"), (B,), False, {B}),
        ((), (), False, set()),
        (("10.0.0.1",), (B,), True, set()),
        ((), (ip_address("::ffff:10.0.0.1"),), False, {A}),
    ],
)
def test_sources(detected: tuple[str, ...], configured: tuple[object, ...], better: bool, found: set[object]) -> None:
    assert sources(detected, configured, is_better_known=better) == found  # type: ignore[arg-type]


async def test_the_snapshot_follows_what_is_known_better() -> None:
    store, better = SnapshotStore(Snapshot()), False
    it = NodeSources(store, (B,), lambda: better)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(it.run())
        await until(lambda: store.current.probe_sources == {B})
        better = True
        it.apply()
        assert store.current.probe_sources == frozenset()
        better = False
        it.apply()
        assert store.current.probe_sources == {B}
        generation = store.current.generation
        it.apply()
        assert store.current.generation == generation
        task.cancel()


async def test_addresses_are_detected_and_stay_while_they_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_LOOK_S", 0.01)
    with pair() as network:
        addresses = netlink.addresses
        monkeypatch.setattr(netlink, "addresses", lambda: network.client.namespace.run(addresses))
        store = SnapshotStore(Snapshot())
        it = NodeSources(store, (), lambda: False)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(it.run())
            await until(lambda: {str(one) for one in store.current.probe_sources} == {"10.77.0.2", "fd77::2"})

            def fail() -> tuple[str, ...]:
                raise KernelError(errno.ENOBUFS, "addresses")

            monkeypatch.setattr(netlink, "addresses", fail)
            await until(lambda: "addresses" in it.problem)
            assert len(store.current.probe_sources) == 2
            task.cancel()
