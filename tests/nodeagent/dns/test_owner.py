"""Which workloads are served, and what becomes of those that can't be."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from meshapi.wire import DNS_PORT
from nodeagent.capture.terms import TOTAL
from nodeagent.dns.owner import DNSOwner
from nodeagent.dns.server import WorkloadDNS
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.runtime.base import LocalWorkload
from tests.nodeagent.dns.conftest import Scene
from tests.nodeagent.dns.resolver import addresses, ask
from tests.nodeagent.waiting import until

WEB = "web.shop.svc.cluster.local"


@asynccontextmanager
async def running(owner: DNSOwner) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(owner.run())
        try:
            yield
        finally:
            task.cancel()


def status(workload: LocalWorkload, state: EnrolmentState = EnrolmentState.CAPTURED) -> WorkloadStatus:
    return WorkloadStatus(workload, state, "nftables")


async def test_who_is_served(scene: Scene) -> None:
    workload = scene.workload()
    unserved = [
        status(replace(workload, uid="listening"), EnrolmentState.LISTENING),
        status(replace(workload, uid="leaving"), EnrolmentState.LEAVING),
        status(replace(workload, uid="refusing", terms=TOTAL)),
        status(replace(workload, uid="group", process_group=True)),
        status(replace(workload, uid="nowhere", network=None)),
    ]
    scene.statuses = [*unserved, *scene.statuses]
    async with scene.serving():
        assert list(scene.owner._served) == [workload.uid]
        # No proxy is of no matter, and neither is a lookup of what it is captured on.
        scene.statuses = [status(workload, EnrolmentState.CLOSED)]
        scene.owner.touch()
        assert addresses(await asyncio.to_thread(ask, scene.pod.namespace, scene.servers[4], WEB)) == ["10.96.0.1"]
        assert list(scene.owner._served) == [workload.uid]


async def test_where_it_is_switched_off_nobody_is(scene: Scene) -> None:
    owner = DNSOwner(scene.owner._knowledge, lambda: scene.statuses, why_not="switched off")
    async with running(owner):
        await asyncio.sleep(0)
        assert not owner._served
        assert owner.summary() == "pods ask their own resolvers: switched off"


async def test_a_port_that_is_taken_is_told_and_tried_again(scene: Scene) -> None:
    with scene.pod.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", DNS_PORT))
        async with running(scene.owner):
            await until(lambda: "another process in the namespace has it" in scene.owner.summary(), deadline_s=10.0)
            taken.close()
            await until(lambda: scene.owner.summary() == "1 workloads served, 2 names of the mesh", deadline_s=10.0)


async def test_a_namespace_that_is_another_now_is_not_served(scene: Scene) -> None:
    stale = replace(scene.workload(), network=scene.client.namespace.key)
    scene.statuses = [status(stale)]
    async with running(scene.owner):
        await until(lambda: "was replaced just now" in scene.owner.summary(), deadline_s=10.0)
        scene.statuses = []
        scene.owner.touch()
        await until(lambda: scene.owner.summary() == "0 workloads served, 2 names of the mesh", deadline_s=10.0)


async def test_an_error_in_one_workloads_dns_begins_it_anew(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, failures = WorkloadDNS.run, [RuntimeError("a mistake of ours")]

    async def failing(self: WorkloadDNS) -> None:
        if failures:
            self._asked.close()
            raise failures.pop()
        await run(self)

    monkeypatch.setattr(WorkloadDNS, "run", failing)
    async with running(scene.owner):
        await until(lambda: scene.owner.summary().endswith("ended by an error"), deadline_s=10.0)
        await until(lambda: not failures and scene.owner.summary().startswith("1 workloads served"), deadline_s=10.0)
        assert addresses(await asyncio.to_thread(ask, scene.pod.namespace, scene.servers[4], WEB)) == ["10.96.0.1"]
    assert "a mistake of ours" in caplog.text
