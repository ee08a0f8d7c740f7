"""Join tokens at several replicas: whichever is asked takes each one, and all of them together take it once."""

import asyncio
import base64
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from control.ca.join_tokens import JoinTokens
from control.ca.refusal import UnauthenticatedError, UnavailableError
from control.cluster.shared_tokens import SharedTokens
from control.metrics import Metrics
from control.rpc import aio, grpc
from kubeapi.access import from_kubeconfig
from kubeapi.client import KubeClient
from tests.control.cluster.test_replicas import until
from tests.control.kube_controller import KubeWorld, kube_world
from tests.control.world import refused
from tests.kube.cluster import Cluster
from tests.kube.quiet import quiet
from tests.kube.rights import controller_kubeconfig

SECRET = "nodemesh-join-tokens"
NOW_S = 1_800_000_000.0


async def knows(world: KubeWorld, tokens: Mapping[str, bool]) -> None:
    """Waits until a replica knows these tokens by id, and which are used."""
    async with asyncio.timeout(20):
        while {one["id"]: one["used_s"] is not None for one in await world.admin("GET", "/tokens")} != tokens:  # noqa: ASYNC110 -- polls what has no event, with a deadline
            await asyncio.sleep(0.05)


async def test_a_token_works_at_every_replica_and_once_in_all(kube: Cluster, tmp_path: Path) -> None:
    async with AsyncExitStack() as opened:
        first = await opened.enter_async_context(kube_world(kube, tmp_path))
        second = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        name = first.node()
        made = await first.admin("POST", "/tokens", json={"node": name, "ttl_s": 600})
        assert made["node_known"]
        await knows(second, {made["id"]: False})
        agents = [await one.agent(name) for one in (first, second, first, second)]
        answers = await asyncio.gather(*(agent.join(made["token"]) for agent in agents), return_exceptions=True)
        assert [one for one in answers if one is None] == [None]
        for one in answers:
            assert one is None or (isinstance(one, aio.AioRpcError) and one.code() is grpc.StatusCode.UNAUTHENTICATED)
        for world in (first, second):
            await knows(world, {made["id"]: True})
        assert await refused((await second.agent(name)).join(made["token"])) is grpc.StatusCode.UNAUTHENTICATED
        assert second.audit()[-1]["check"] == "token-replayed"
        content = base64.b64decode(kube.admin.get("v1", "Secret", SECRET, first.namespace)["data"]["join-tokens.json"]).decode()
        assert made["token"].rpartition(".")[2] not in content, "only its hash is kept"
        assert await second.admin("DELETE", f"/tokens/{made['id']}")
        await knows(first, {})


async def test_a_token_for_a_gateway_is_known_to_all_and_spoils_no_other(kube: Cluster, tmp_path: Path) -> None:
    async with AsyncExitStack() as opened:
        first = await opened.enter_async_context(kube_world(kube, tmp_path))
        second = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        gate = await first.admin("POST", "/tokens", json={"gateway": "edge/gate", "ttl_s": 600})
        node = await second.admin("POST", "/tokens", json={"node": first.node(), "ttl_s": 600})
        for world in (first, second):
            await knows(world, {gate["id"]: False, node["id"]: False})


async def test_what_one_revokes_and_a_secret_that_is_deleted(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as world:
        name = world.node()
        made = await world.admin("POST", "/tokens", json={"node": name, "ttl_s": 600})
        kube.admin.delete("v1", "Secret", SECRET, world.namespace)
        await knows(world, {})
        assert await refused((await world.agent(name)).join(made["token"])) is grpc.StatusCode.UNAUTHENTICATED
        again = await world.admin("POST", "/tokens", json={"node": name, "ttl_s": 600})
        await (await world.agent(name)).join(again["token"])


async def test_a_secret_that_is_broken_holds_no_tokens_and_is_not_written_over(kube: Cluster, tmp_path: Path) -> None:
    kubeconfig, namespace = controller_kubeconfig(kube, tmp_path)
    garbage = base64.b64encode(b'[{"id": "a", "node": "../x"}]').decode()
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": namespace}}
    async with KubeClient(from_kubeconfig(kubeconfig)) as client:
        tokens = JoinTokens(SharedTokens(client, namespace, Metrics()))
        record, token = await tokens.create("n1", 600, NOW_S)
        assert tokens.check(token, NOW_S).id == record.id
        kube.admin.merge({**secret, "data": {"join-tokens.json": garbage}})
        with pytest.raises(UnavailableError, match="can't be read"):
            await tokens.use(record.id, NOW_S)
        with pytest.raises(UnauthenticatedError):
            tokens.check(token, NOW_S)
        await until(lambda: kube.admin.get("v1", "Secret", SECRET, namespace)["data"]["join-tokens.json"] == garbage, "as it was")
    await quiet()


async def test_without_the_api_server_no_token_is_used_up(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as world:
        name = world.node()
        made = await world.admin("POST", "/tokens", json={"node": name, "ttl_s": 600})
        agent = await world.agent(name)
        world.cut_off()
        with pytest.raises(aio.AioRpcError) as error:
            await agent.join(made["token"])
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not any(one["used_s"] for one in await world.admin("GET", "/tokens"))


async def test_changes_at_once_all_count(kube: Cluster, tmp_path: Path) -> None:
    """Several replicas that write at the same time: nobody's change is lost."""
    kubeconfig, namespace = controller_kubeconfig(kube, tmp_path)
    async with KubeClient(from_kubeconfig(kubeconfig)) as client:
        replicas = [JoinTokens(SharedTokens(client, namespace, Metrics())) for _ in range(3)]
        made = await asyncio.gather(*(one.create(f"n{number}", 600, NOW_S) for number, one in enumerate(replicas * 2)))
        await replicas[0].revoke(made[0][0].id)
        assert {one.id for one in replicas[0].all()} == {record.id for record, _ in made[1:]}
        used = await asyncio.gather(*(one.use(made[1][0].id, NOW_S) for one in replicas), return_exceptions=True)
        assert sum(one is None for one in used) == 1
    await quiet()
