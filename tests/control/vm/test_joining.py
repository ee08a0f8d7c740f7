"""Machines at a controller with a directory of files, over real gRPC and TLS: they join, are registered, go, come back and leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from control.backing import DirectorySettings, directory
from control.controller import Settings
from control.model.settings import MeshSettings
from control.rpc import aio, grpc
from control.serve import serve
from meshapi.attendance import Assigned, Health, Member, Probe, TCPSocket
from meshapi.vm import GroupName, VMName
from tests.control.agent import WAIT_S, Agent
from tests.control.vm.machine import WEB, attending, leave
from tests.control.world import refused
from tests.kube.ports import free_ports

WEB_1 = VMName.make("web-1", (WEB,))
GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: web, namespace: shop, annotations: {nodemesh.io/allowed-addresses: 10.9.0.0/16}}
spec:
  metadata: {labels: {app: web}}
  template: {serviceAccount: web, ports: {http: 8080}}
  probe: {tcpSocket: {port: 8080}, periodSeconds: 5}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: api, namespace: shop}
spec: {template: {}}
"""
MEMBER = Member(WEB, "10.9.0.1")
UID = "Kubernetes/networking.istio.io/WorkloadEntry/shop/web-10.9.0.1"
IDENTITY = "spiffe://cluster.local/ns/shop/sa/web"


class Site:
    """Where a controller runs, and runs again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config"
        self.config.mkdir()
        (self.config / "groups.yaml").write_text(GROUP)
        self.token_port, self.agent_port = free_ports(2)
        self.settings = Settings(
            state_dir=path / "state",
            admin_socket=path / "admin.sock",
            listen="127.0.0.1",
            token_port=self.token_port,
            agent_port=self.agent_port,
            metrics_listen="127.0.0.1",
            metrics_port=0,
        )
        self.grace_s = 60.0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        stop, ready = asyncio.Event(), asyncio.Event()
        backing = directory(DirectorySettings(self.config, "istio-system", self.settings.state_dir, grace_s=self.grace_s))
        task = asyncio.ensure_future(serve(self.settings, MeshSettings(), backing, stop, ready))
        try:
            async with asyncio.timeout(WAIT_S):
                await ready.wait()
            yield
        finally:
            stop.set()
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(task, return_exceptions=True)

    async def admin(self, method: str, path: str, **options) -> dict:
        connector = aiohttp.UnixConnector(str(self.settings.admin_socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://controller{path}", **options) as response,
        ):
            return msgspec.json.decode(await response.read())

    async def machine(self, name: VMName = WEB_1) -> Agent:
        """One that has joined."""
        roots = (await self.admin("GET", "/root"))["pem"].encode()
        agent = Agent(name.node, roots, self.token_port, self.agent_port)
        await agent.join((await self.admin("POST", "/tokens", json={"node": name.node}))["token"])
        return agent

    async def entries(self) -> dict[str, dict]:
        listing = await self.admin("GET", "/objects?kind=workloadentry")
        return {one["name"]: one["manifest"] for one in listing["objects"]}

    async def until(self, names: set[str]) -> None:
        async with asyncio.timeout(WAIT_S):
            while set(await self.entries()) != names:  # noqa: ASYNC110 -- another process tells
                await asyncio.sleep(0.02)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_a_machine_joins_is_registered_and_gets_its_identity(site: Site) -> None:
    async with site.serving():
        machine = await site.machine()
        assert await refused(machine.certificate(IDENTITY)) == grpc.StatusCode.PERMISSION_DENIED
        async with attending(machine) as stream:
            told = await stream.registered(MEMBER)
            probe = Probe(TCPSocket(8080), period_s=5)
            assert told == Assigned(WEB, UID, "web-10.9.0.1", "web", probe, address="10.9.0.1", ports=(8080,))
            assert await machine.certificate(IDENTITY)
            for other in ("spiffe://cluster.local/ns/shop/sa/default", "spiffe://cluster.local/ns/default/sa/web"):
                assert await refused(machine.certificate(other)) == grpc.StatusCode.PERMISSION_DENIED


async def test_a_token_for_one_group_registers_in_no_other(site: Site) -> None:
    async with site.serving():
        machine = await site.machine()
        async with attending(machine) as stream:
            await stream.say(Member(GroupName("shop", "api"), "10.9.0.1"))
            told = await stream.told(lambda one: bool(one.problem))
            assert "was not made for it" in told.problem
            # Where the connection comes from is no address that could be claimed.
            await stream.say(Member(WEB))
            assert "loopback" in (await stream.told(lambda one: one.group == WEB)).problem
        assert not await site.entries()


async def test_a_token_works_once_and_for_its_machine_only(site: Site) -> None:
    async with site.serving():
        roots = (await site.admin("GET", "/root"))["pem"].encode()
        token = (await site.admin("POST", "/tokens", json={"node": WEB_1.node}))["token"]
        other = Agent(VMName.make("web-1", (GroupName("shop", "api"),)).node, roots, site.token_port, site.agent_port)
        with pytest.raises(aio.AioRpcError) as error:
            await other.join(token)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        machine = Agent(WEB_1.node, roots, site.token_port, site.agent_port)
        await machine.join(token)
        assert await refused(machine.join(token)) == grpc.StatusCode.UNAUTHENTICATED


async def test_nodes_of_the_cluster_do_not_attend(site: Site) -> None:
    (site.config / "node.yaml").write_text("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n")
    async with site.serving():
        roots = (await site.admin("GET", "/root"))["pem"].encode()
        node = Agent("n1", roots, site.token_port, site.agent_port)
        await node.join((await site.admin("POST", "/tokens", json={"node": "n1"}))["token"])
        async with attending(node) as stream:
            assert (await stream.ended())[0] == grpc.StatusCode.PERMISSION_DENIED


async def test_health_takes_it_out_and_back(site: Site) -> None:
    async with site.serving():
        machine = await site.machine()
        async with attending(machine) as stream:
            await stream.registered(MEMBER)
            for health, status in ((Health.UNHEALTHY, "False"), (Health.HEALTHY, "True")):
                await stream.say(msgspec.structs.replace(MEMBER, health=health))
                async with asyncio.timeout(WAIT_S):
                    while healthy(await site.entries()) != status:  # noqa: ASYNC110 -- another process tells
                        await asyncio.sleep(0.02)


def healthy(entries: dict[str, dict]) -> str:
    conditions = entries["web-10.9.0.1"].get("status", {}).get("conditions", [])
    return next((one["status"] for one in conditions if one["type"] == "Healthy"), "")


async def test_a_machine_keeps_its_entry_while_the_controller_starts_again_and_loses_it_when_it_stays_away(site: Site) -> None:
    async with site.serving():
        machine = await site.machine()
        async with attending(machine) as stream:
            await stream.registered(MEMBER)
    async with site.serving():
        assert set(await site.entries()) == {"web-10.9.0.1"}, "an agent that asks now is told of it"
        async with attending(machine) as stream:
            await stream.registered(MEMBER)
    site.grace_s = 0.2
    async with site.serving():
        await site.until(set())
    assert not list(site.config.glob("*entr*")), "the user's directory is the user's"


async def test_who_leaves_is_gone_and_can_not_come_back_without_a_new_bundle(site: Site) -> None:
    async with site.serving():
        machine = await site.machine()
        async with attending(machine) as stream:
            await stream.registered(MEMBER)
            await leave(machine)
            assert not await site.entries()
            assert (await stream.ended())[0] == grpc.StatusCode.PERMISSION_DENIED
        async with attending(machine) as stream:
            assert (await stream.ended())[0] == grpc.StatusCode.UNAUTHENTICATED
        async with attending(await site.machine()) as stream:
            await stream.registered(MEMBER)


async def test_a_machine_that_is_revoked_is_registered_no_more(site: Site) -> None:
    async with site.serving():
        machine = await site.machine()
        async with attending(machine) as stream:
            await stream.registered(MEMBER)
            await site.admin("POST", "/revocations", json={"identity": machine.identity})
            assert (await stream.ended())[0] == grpc.StatusCode.UNAUTHENTICATED
            await site.until(set())


async def test_an_agent_that_comes_back_at_once_does_not_hinder_its_machine_from_leaving(site: Site) -> None:
    async def insist(machine: Agent) -> None:
        while True:
            with contextlib.suppress(aio.AioRpcError, AssertionError):
                async with attending(machine) as stream:
                    await stream.registered(MEMBER)
                    await stream.ended()

    async with site.serving():
        machine = await site.machine()
        insisting = asyncio.ensure_future(insist(machine))
        try:
            await site.until({"web-10.9.0.1"})
            await leave(machine)
            await site.until(set())
        finally:
            insisting.cancel()
            await asyncio.gather(insisting, return_exceptions=True)
        assert not await site.entries()


async def test_the_newest_connection_of_a_machine_counts(site: Site) -> None:
    async with site.serving():
        machine = await site.machine()
        async with attending(machine) as first:
            await first.registered(MEMBER)
            async with attending(machine) as second:
                await second.registered(MEMBER)
            assert (await first.ended())[0] == grpc.StatusCode.PERMISSION_DENIED
            assert set(await site.entries()) == {"web-10.9.0.1"}


async def test_without_its_group_a_machine_is_nobody(site: Site) -> None:
    site.grace_s = 0.2
    async with site.serving():
        machine = await site.machine()
        async with attending(machine) as stream:
            await stream.registered(MEMBER)
            (site.config / "groups.yaml").unlink()
            assert (await stream.ended())[0] == grpc.StatusCode.UNAUTHENTICATED
        await site.until(set())


async def test_garbage_ends_that_stream_only(site: Site) -> None:
    async with site.serving():
        machine = await site.machine()
        async with attending(machine) as stream:
            await stream.call.write(b"\xff\xff\xff")
            assert (await stream.ended())[0] == grpc.StatusCode.INVALID_ARGUMENT
        async with attending(machine) as stream:
            with contextlib.suppress(Exception):
                await stream.say(Member(WEB), Member(WEB))
            assert (await stream.ended())[0] == grpc.StatusCode.INVALID_ARGUMENT
        async with attending(machine) as stream:
            await stream.registered(MEMBER)
