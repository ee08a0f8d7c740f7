"""Another root for several replicas: all of them trust it before any signs below it, and all end up with it alone."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from control.cluster import root_secret
from tests.control.cluster.test_replicas import certificate
from tests.control.kube_controller import KubeWorld, kube_world
from tests.kube.cluster import Cluster

WAIT_S = 20.0


async def roots(world: KubeWorld) -> list[dict[str, Any]]:
    return (await world.admin("GET", "/root/rotation"))["roots"]


async def settle(world: KubeWorld, count: int, signs: str) -> None:
    """Waits until a replica trusts so many roots, and signs below this one."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found = await roots(world)
            if len(found) == count and [one["sha256"] for one in found if one["signs"]] == [signs]:
                return
            await asyncio.sleep(0.05)


async def refusal(world: KubeWorld, **body: bool) -> str:
    connector = aiohttp.UnixConnector(str(world.socket))
    async with aiohttp.ClientSession(connector=connector) as session, session.post("http://c/root/rotation", json=body) as response:
        assert response.status == 409
        return (await response.json())["error"]


async def test_all_replicas_go_from_one_root_to_the_next(kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_secret, "PERIOD_S", 0.2)
    async with AsyncExitStack() as opened:
        first = await opened.enter_async_context(kube_world(kube, tmp_path))
        second = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        (former,) = await roots(first)
        assert former["signs"]
        assert (await first.admin("POST", "/root/rotation"))["phase"] == "started"
        for world in (first, second):
            await settle(world, 2, former["sha256"])
        assert "to learn of the new root" in await refusal(second)
        assert (await second.admin("POST", "/root/rotation", json={"force": True}))["phase"] == "activated"
        (coming,) = [one["sha256"] for one in await roots(second) if one["signs"]]
        assert coming != former["sha256"]
        for world in (first, second):
            await settle(world, 2, coming)
        assert "may be in use for 30.0 days" in await refusal(first)
        assert "rotation is activated" in await refusal(first, cancel=True)
        assert (await first.admin("POST", "/root/rotation", json={"force": True}))["phase"] == "none"
        for world in (first, second):
            await settle(world, 1, coming)
        third = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        await settle(third, 1, coming)
        data = kube.admin.get("v1", "Secret", "nodemesh-root", first.namespace)["data"]
        assert set(data) == {"own-root-cert.pem", "root-cert.pem", "root-key.pem"}
        name = first.node()
        token = first.token(first.agent_pod(name))
        issuers = set()
        for world in (first, second, third):
            leaf, intermediate, root = x509.load_pem_x509_certificates("".join(await certificate(world, token, name)).encode())
            leaf.verify_directly_issued_by(intermediate)
            intermediate.verify_directly_issued_by(root)
            issuers.add(intermediate.serial_number)
        assert len(issuers) == 3


async def test_two_steps_at_once_are_one(kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_secret, "PERIOD_S", 0.2)
    async with AsyncExitStack() as opened:
        first = await opened.enter_async_context(kube_world(kube, tmp_path))
        second = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        answers = await asyncio.gather(*(one.admin("POST", "/root/rotation") for one in (first, second)), return_exceptions=True)
        assert [isinstance(one, AssertionError) for one in answers].count(True) == 1, answers
        for world in (first, second):
            async with asyncio.timeout(WAIT_S):
                while len(await roots(world)) != 2:  # noqa: ASYNC110 -- polls what has no event, with a deadline
                    await asyncio.sleep(0.05)
        assert (await first.admin("POST", "/root/rotation", json={"cancel": True}))["phase"] == "none"
        for world in (first, second):
            async with asyncio.timeout(WAIT_S):
                while len(await roots(world)) != 1:  # noqa: ASYNC110 -- polls what has no event, with a deadline
                    await asyncio.sleep(0.05)
