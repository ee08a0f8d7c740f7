"""What who runs an Envoy is told of workloads: their names, by address, and nothing else of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.rpc import grpc
from control.waypoint.name_stream import follow_names
from control.waypoint.workload_names import NOBODY, WorkloadNames
from meshapi import wire
from meshapi.workload import Workload, WorkloadUID, decode_alone
from tests.control.agent import Discovery
from tests.control.waypoint.test_identity import kept, settings_of
from tests.control.world import running, until
from tests.control.xds.test_proxies import Meshed

POD = """
    kind: Pod
    apiVersion: v1
    metadata:
      name: page-1
      namespace: team
      uid: u1
      labels: {app: page, version: v2, istio.io/dataplane-mode: ambient}
    spec: {serviceAccountName: page, nodeName: n1, containers: []}
    status: {phase: Running, podIP: ADDRESS, podIPs: [{ip: ADDRESS}], conditions: [{type: Ready, status: "True"}]}
"""
UID = "Kubernetes//Pod/team/page-1"
PAGE = "spiffe://cluster.local/ns/team/sa/page"


@pytest.fixture
async def meshed(tmp_path: Path) -> AsyncIterator[Meshed]:
    async with running(Meshed(tmp_path)) as world:
        world.config.write("node.yaml", "{kind: Node, apiVersion: v1, metadata: {name: n1, uid: n1}}")
        world.config.write("page.yaml", POD.replace("ADDRESS", "10.0.0.7"))
        yield world


async def test_by_address_and_only_what_it_is_called(meshed: Meshed) -> None:
    runner = await meshed.runner()
    async with runner.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(wire.WORKLOAD_TYPE, "*", "/10.0.0.7", "/10.0.0.8", un=("*",))
        assert (await stream.read()).removed == ("/10.0.0.8",)
        told = decode_alone(stream.bodies[UID])
        account, name = {"service_account": "page"}, {"canonical_name": "page", "canonical_revision": "v2", "workload_name": "page-1"}
        assert told == Workload(WorkloadUID(UID), "page-1", "team", told.addresses, **account, **name)
        assert [str(one) for one in told.addresses] == ["10.0.0.7"]


async def test_nobody_is_given_all_of_them(meshed: Meshed) -> None:
    runner = await meshed.runner()
    for keys in ((), ("*",)):
        async with runner.by_certificate() as channel:
            stream = Discovery(channel)
            await stream.ask(wire.WORKLOAD_TYPE, *keys)
            code, _ = await stream.ended()
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert stream.holds == {}


async def test_an_agent_is_not_told(meshed: Meshed) -> None:
    agent = await meshed.agent("n1")
    async with agent.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(wire.WORKLOAD_TYPE, "/10.0.0.7")
        # Without an answer: the next one is that to the request behind it.
        await stream.ask(wire.TRUST_TYPE)
        assert (await stream.read()).type_url == wire.TRUST_TYPE


async def test_the_process_beside_envoy_follows(meshed: Meshed, tmp_path: Path) -> None:
    names = WorkloadNames()

    def found(address: str) -> str | None:
        return names.find(address, PAGE, asyncio.get_running_loop().time())

    async with kept(await settings_of(meshed, tmp_path)) as identity, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow_names(identity, names))
        await until(lambda: found("10.0.0.7") == "page-1;team;page;v2;Kubernetes")
        assert found("10.0.0.8") in {None, NOBODY}
        meshed.config.write("page.yaml", POD.replace("ADDRESS", "10.0.0.8"))
        await until(lambda: found("10.0.0.8") == "page-1;team;page;v2;Kubernetes")
        await until(lambda: found("10.0.0.7") == NOBODY)
        following.cancel()


async def test_a_stream_of_names_is_not_waited_for_when_roots_change(meshed: Meshed) -> None:
    runner = await meshed.runner()
    async with runner.by_certificate() as names, runner.by_certificate() as roots:
        stream = Discovery(names)
        await stream.ask(wire.WORKLOAD_TYPE, "/10.0.0.7")
        await stream.read()
        assert followers(meshed) == []
        trust = Discovery(roots)
        await trust.ask(wire.TRUST_TYPE)
        await trust.read()
        await until(lambda: followers(meshed) == [[wire.TRUST_TYPE]])


def followers(meshed: Meshed) -> list[list[str]]:
    return [[one.type_url for one in status.types] for status in meshed.controller._hub.followers()]
