"""The owner: labels from what the mesh knows, answers for single connections, and nothing but figures lost when the kernel refuses."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from meshapi.workload import Workload, WorkloadUID
from nodeagent.capture.terms import Terms
from nodeagent.linux.cgroups import root as cgroup_root
from nodeagent.runtime.base import LocalWorkload
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update
from nodeagent.telemetry.kernel.owner import KernelTelemetry
from nodeagent.telemetry.kernel.sighting import NOTHING
from nodeagent.ztunnel.protocol import ConnectionEntry, Direction, Via
from tests.nodeagent import cgroups
from tests.nodeagent.bpf.connections import carry, connection, cookie
from tests.nodeagent.pods import Pair

PORT = 9000
UID = WorkloadUID("Kubernetes//Pod/default/shop-1")
V4 = socket.AF_INET


@pytest.fixture
def own() -> Iterator[Path]:
    with cgroups.made() as path, cgroups.inside(path):
        yield path


def workload(uid: str, name: str, address: str, workload_name: str = "") -> Workload:
    return Workload(uid=WorkloadUID(uid), name=name, namespace="default", addresses=(ip_address(address),), workload_name=workload_name)


def local(network: Pair, **terms: str) -> LocalWorkload:
    return LocalWorkload(
        UID, "shop-1", "default", "shop", f"/run/netns/{network.pod.name}", network.pod.namespace.key, terms=Terms(**terms)
    )


@asynccontextmanager
async def looking(store: SnapshotStore, root: Path, *workloads: LocalWorkload) -> AsyncIterator[KernelTelemetry]:
    it = KernelTelemetry(store, root, period_s=0.05)
    it.see(workloads)
    running = asyncio.get_running_loop().create_task(it.run())
    try:
        yield it
        await it.leave()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def pins(root: Path) -> list[Path]:
    """A directory for each program and place."""
    return list(root.iterdir()) if root.exists() else []


async def until(check: object) -> None:
    async with asyncio.timeout(10):
        while not check():  # type: ignore[operator]  # noqa: ASYNC110 - it is a thread that works
            await asyncio.sleep(0.02)


def pairs(it: KernelTelemetry) -> set[tuple[str, str, str]]:
    return {
        (one.labels["reporter"], one.labels["source_workload"], one.labels["destination_workload"])
        for family in text_string_to_metric_families(it.metrics.render())
        for one in family.samples
        if one.name == "nodemesh_tcp_retransmits_total"
    }


async def test_flows_are_named_by_what_the_mesh_knows_of_their_ends(own: Path, root: Path, network: Pair) -> None:
    store = SnapshotStore(Snapshot())
    async with looking(store, root, local(network)) as it:
        await until(lambda: not it.problem)
        with connection(network.pod, network.client, V4, PORT) as (here, there):
            carry(here, there)
            await until(lambda: pairs(it))
            assert pairs(it) == {("source", "shop-1", "unknown")}, "the controller has told of neither"
            known = workload(UID, "shop-1", "10.77.0.1", "shop"), workload("api", "api-1", "10.77.0.2", "api")
            store.apply(Update(workloads=known))
            await until(lambda: ("source", "shop", "api") in pairs(it))
        with connection(network.client, network.pod, V4, 15008) as (here, there):
            carry(here, there)
        await until(lambda: ("destination", "api", "shop") in pairs(it))
    assert pins(root) == []


async def test_an_address_on_a_node_and_a_namespace_of_several_name_nobody(own: Path, root: Path, network: Pair) -> None:
    store = SnapshotStore(Snapshot())
    store.apply(Update(workloads=(workload(UID, "shop-1", "10.77.0.1"), workload("api", "api-1", "10.77.0.9"))))
    twin = LocalWorkload("twin", "twin", "default", "twin", f"/run/netns/{network.pod.name}", network.pod.namespace.key)
    async with looking(store, root, local(network), twin) as it:
        await until(lambda: not it.problem)
        with connection(network.pod, network.client, V4, PORT) as (here, there):
            carry(here, there)
            await until(lambda: pairs(it))
        assert pairs(it) == {("source", "unknown", "unknown")}


async def test_what_is_known_of_a_connection(own: Path, root: Path, network: Pair) -> None:
    async with looking(SnapshotStore(Snapshot()), root, local(network, cgroup=own.name)) as it:
        await until(lambda: not it.problem and len(pins(root)) == 2)
        with connection(network.pod, network.client, V4, PORT) as (here, _):
            source, destination = ("{}:{}".format(*address) for address in (here.getsockname(), here.getpeername()))
            entry = ConnectionEntry(
                id=1, workload=UID, direction=Direction.OUTBOUND, series=None, source=source, destination=destination, opened_s=time.time(),
                via=Via.HBONE, socket=cookie(here),
            )  # fmt: skip
            inbound = replace(entry, direction=Direction.INBOUND, socket=None)
            odd = replace(entry, source="nonsense", destination="0:x", socket=None)
            (process, figures), *others = it.sightings((entry, inbound, odd), ended=False)
            assert process is not None
            assert figures is not None
            assert process.executable is not None
            assert process.executable.startswith("/")
            assert figures.connect_s is not None
            assert figures.retransmits == 0
            assert others == [NOTHING, NOTHING]
            assert it.sightings((entry, odd, entry), ended=True) == [(None, figures), NOTHING, (process, figures)]


async def test_where_the_kernel_refuses_there_are_no_figures_and_that_is_said(
    root: Path, network: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with cgroups.inside(cgroup_root()):
        async with looking(SnapshotStore(Snapshot()), root, local(network, cgroup="no/such")) as it:
            await until(lambda: "in a cgroup of its own" in it.problem)
            it.see((local(network, cgroup="no/such"),))
            await asyncio.sleep(0)
            assert it.metrics.render().count("\n") == 8
    assert len([one for one in caplog.records if "not counted" in one.message]) == 1


async def test_programs_stay_when_the_agent_ends_and_go_when_it_leaves(own: Path, root: Path, network: Pair) -> None:
    store = SnapshotStore(Snapshot())
    it = KernelTelemetry(store, root, period_s=0.05)
    it.see((local(network, cgroup=own.name),))
    running = asyncio.get_running_loop().create_task(it.run())
    await until(lambda: not it.problem and len(pins(root)) == 2)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert len(pins(root)) == 2
    async with looking(store, root, local(network, cgroup=own.name)) as after:
        await until(lambda: not after.problem)
    assert pins(root) == []
