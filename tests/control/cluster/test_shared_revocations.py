"""Revocations at several replicas: what one revokes holds at all, whatever order things come in, and nothing is undone by an accident."""

import asyncio
import base64
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.cluster.shared_revocations import merged
from tests.control.cluster.test_replicas import certificate, until
from tests.control.kube_controller import KubeWorld, kube_world
from tests.control.world import refused
from tests.kube.admin import APIError
from tests.kube.cluster import Cluster

SECRET = "nodemesh-revocations"
CART = "spiffe://cluster.local/ns/shop/sa/cart"
TIMES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5))


def test_merging() -> None:
    assert merged({}, {"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
    assert merged({"a": 1}, {}, {"a": 1, "b": 2}) == {"b": 2}
    assert merged({"a": 1}, {}, {"a": 3}) == {"a": 3}, "revoked anew elsewhere"
    assert merged({"a": 1}, {"a": 1}, {}) == {}, "undone elsewhere"
    assert merged({}, {"a": 1}, {"a": 9}) == {"a": 9}


@given(TIMES, TIMES, TIMES)
def test_nothing_revoked_is_lost(base: dict[str, int], local: dict[str, int], remote: dict[str, int]) -> None:
    found = merged(base, local, remote)
    for identity in local.keys() | remote.keys():
        news = [times[identity] for times in (local, remote) if identity in times and times[identity] != base.get(identity)]
        if news:
            assert found[identity] >= max(news)
    assert merged(found, found, found) == found


async def revoked(world: KubeWorld) -> set[str]:
    return {one["identity"] for one in await world.admin("GET", "/revocations")}


async def comes(world: KubeWorld, identities: set[str]) -> None:
    async with asyncio.timeout(20):
        while await revoked(world) != identities:  # noqa: ASYNC110 -- polls what has no event, with a deadline
            await asyncio.sleep(0.05)


async def test_what_one_replica_revokes_holds_at_all_and_after_a_restart(kube: Cluster, tmp_path: Path) -> None:
    async with AsyncExitStack() as opened:
        first = await opened.enter_async_context(kube_world(kube, tmp_path))
        second = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        await first.admin("POST", "/revocations", json={"identity": CART})
        await comes(second, {CART})
        name = first.node()
        token = first.token(first.agent_pod(name))
        assert await certificate(second, token, name)
        agent = await second.agent(name)
        await agent.join(token)
        await first.admin("POST", "/revocations", json={"identity": agent.identity})
        await comes(second, {CART, agent.identity})
        await refused(agent.certificate(agent.identity))
        assert second.audit()[-1]["check"] == "certificate-revoked"
        await second.admin("DELETE", "/revocations", params={"identity": CART})
        await comes(first, {agent.identity})
        third = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        assert await revoked(third) == {agent.identity}


async def test_a_secret_that_is_deleted_or_broken_undoes_nothing(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as world:
        await world.admin("POST", "/revocations", json={"identity": CART})
        await until(lambda: kube.admin.get("v1", "Secret", SECRET, world.namespace), "the secret")
        before = kube.admin.get("v1", "Secret", SECRET, world.namespace)["metadata"]["uid"]
        kube.admin.delete("v1", "Secret", SECRET, world.namespace)
        await until(lambda: kube.admin.get("v1", "Secret", SECRET, world.namespace)["metadata"]["uid"] != before, "the secret again")
        garbage = base64.b64encode(b'[{"identity": "spiffe://x/../y", "issued_before_s": 7}]').decode()
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": world.namespace}}
        kube.admin.merge({**secret, "data": {"revocations.json": garbage}})
        another = "spiffe://cluster.local/ns/shop/sa/other"
        await world.admin("POST", "/revocations", json={"identity": another})
        await until(lambda: another in _content(kube, world.namespace) and CART in _content(kube, world.namespace), "both")
        assert await revoked(world) == {CART, another}


def _content(kube: Cluster, namespace: str) -> str:
    try:
        return base64.b64decode(kube.admin.get("v1", "Secret", SECRET, namespace)["data"]["revocations.json"]).decode()
    except APIError:
        pytest.fail("the secret is gone")
