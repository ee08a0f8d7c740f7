"""Containers of a real engine, found by their labels; and engines that answer nonsense."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from nodeagent.linux.namespaces import key_at
from nodeagent.runtime.engines.docker import Inspected
from tests.nodeagent.runtime.following import following
from tests.nodeagent.runtime.podman import Podman, podman
from tests.nodeagent.waiting import until


@pytest.fixture(scope="module")
def engine() -> Iterator[Podman]:
    with podman() as made:
        yield made


@pytest.fixture(autouse=True)
def _no_containers(engine: Podman) -> Iterator[None]:
    yield
    engine.command("rm", "--force", "--all", "--time=0")


async def test_labelled_containers_are_workloads(engine: Podman) -> None:
    run = asyncio.to_thread
    web_id = await run(engine.run, "web", mode="ambient")
    await run(engine.run, "plain")
    await run(engine.run, "node", "--network=host", mode="ambient")
    async with following(engine.socket) as followed:
        await until(lambda: followed.told is not None, deadline_s=20)
        assert followed.names == ["Kubernetes//Pod/default/web"]
        assert followed.told is not None
        (one,) = followed.told
        pid = (await run(engine.inspect, "web"))["State"]["Pid"]
        assert (one.instance, one.service_account, one.network) == (web_id, "default", key_at(f"/proc/{pid}/ns/net"))
        assert one.present
        await run(engine.run, "x", mode="ambient", workload="api-1", namespace="shop", account="api")
        await until(lambda: followed.names == ["Kubernetes//Pod/default/web", "Kubernetes//Pod/shop/api-1"], deadline_s=20)
        assert followed.told[1].service_account == "api"
        assert not followed.runtime.problem
        await run(engine.command, "restart", "--time=0", "web")
        await until(lambda: followed.told[0].instance == web_id and followed.told[0].network not in {one.network, None}, deadline_s=20)
        await run(engine.command, "rm", "--force", "--time=0", "web")
        await until(lambda: followed.names == ["Kubernetes//Pod/shop/api-1"], deadline_s=20)


async def test_what_is_known_stays_while_the_engine_is_away_but_not_what_ends(engine: Podman) -> None:
    run = asyncio.to_thread
    for name in ("stays", "ends"):
        await run(engine.run, name, mode="ambient")
    pid = (await run(engine.inspect, "ends"))["State"]["Pid"]
    async with following(engine.socket) as followed:
        await until(lambda: followed.told is not None and len(followed.told) == 2, deadline_s=20)
        engine.stop()
        await until(lambda: "the engine at" in followed.runtime.problem, deadline_s=20)
        assert followed.told is not None
        assert len(followed.told) == 2
        os.kill(pid, signal.SIGKILL)
        await until(lambda: followed.names == ["Kubernetes//Pod/default/stays"], deadline_s=20)
        await run(engine.start)
        await until(lambda: not followed.runtime.problem, deadline_s=20)
        assert followed.names == ["Kubernetes//Pod/default/stays"]


async def test_names_that_can_be_none_and_names_of_two(engine: Podman) -> None:
    run = asyncio.to_thread
    await run(engine.run, "good", mode="ambient", workload="same")
    await run(engine.run, "bad", mode="ambient", namespace="../x")
    async with following(engine.socket) as followed:
        await until(lambda: followed.told is not None, deadline_s=20)
        assert followed.names == ["Kubernetes//Pod/default/same"]
        assert "container bad: " in followed.runtime.problem
        assert followed.told is not None
        first = followed.told[0].instance
        await run(engine.run, "second", mode="ambient", workload="same")
        await until(lambda: "is another's" in followed.runtime.problem, deadline_s=20)
        assert [workload.instance for workload in followed.told] == [first], "who was there first keeps the name"


@asynccontextmanager
async def answering(directory: Path, listed: bytes, inspected: bytes, status: int = 200) -> AsyncIterator[Path]:
    """An engine that answers what it is told to, and has no events."""

    async def events(_: web.Request) -> web.Response:
        return web.Response(status=500)

    async def lists(_: web.Request) -> web.Response:
        return web.Response(body=listed, status=status)

    async def inspects(_: web.Request) -> web.Response:
        return web.Response(body=inspected, status=status)

    application = web.Application()
    application.router.add_get("/_ping", events)
    application.router.add_get("/events", events)
    application.router.add_get("/containers/json", lists)
    application.router.add_get("/containers/{id}/json", inspects)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(directory / "engine.sock")).start()
    try:
        yield directory / "engine.sock"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("listed", "inspected", "status", "words"),
    [
        (b"", b"", 500, "HTTP 500"),
        (b"{", b"", 200, "can't be read"),
        (b"[" * 100_000, b"", 200, "can't be read"),
        (b'[{"Id":"a"}]', b"[]", 200, "can't be read"),
        (b'[{"Id":"a"}]', b'{"Id":"a","State":{"Pid":"x"}}', 200, "can't be read"),
        (b'[{"Id":"a"}]', b'{"Id":"\xff"}', 200, "can't be read"),
        (b"[" + b" " * (17 << 20) + b"]", b"", 200, "answers more than"),
    ],
)
async def test_an_engine_that_answers_nonsense_is_told_and_nothing_is_taken_from_it(
    tmp_path: Path, listed: bytes, inspected: bytes, status: int, words: str
) -> None:
    async with answering(tmp_path, listed, inspected, status) as path, following(path) as followed:
        await until(lambda: words in followed.runtime.problem, deadline_s=20)
        assert followed.told is None


async def test_engines_that_are_there_are_one_set_which_must_be_whole_at_first(tmp_path: Path, engine: Podman) -> None:
    await asyncio.to_thread(engine.run, "web", mode="ambient")
    absent = tmp_path / "absent.sock"
    async with following(engine.socket, absent, usual=True) as followed:
        await until(lambda: followed.names == ["Kubernetes//Pod/default/web"], deadline_s=20)
        assert not followed.runtime.problem, "one that is not there is not missed"
    async with following(engine.socket, absent) as followed:
        await until(lambda: str(absent) in followed.runtime.problem and str(engine.socket) not in followed.runtime.problem, deadline_s=20)
        assert followed.told is None, "one that is named may have containers that a former agent knew"
    async with answering(tmp_path, b"[]", b"") as other, following(engine.socket, other) as followed:
        await until(lambda: followed.names == ["Kubernetes//Pod/default/web"], deadline_s=20)
    async with following(absent, usual=True) as followed:
        await until(lambda: f"no engine at {absent}" in followed.runtime.problem, deadline_s=20)
        assert followed.told is None


async def test_who_speaks_neither_api_is_no_engine(tmp_path: Path) -> None:
    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00nonsense")
        writer.close()

    async with await asyncio.start_unix_server(nonsense, tmp_path / "s"), following(tmp_path / "s") as followed:
        await until(lambda: "speaks neither" in followed.runtime.problem, deadline_s=20)
        assert followed.told is None


async def test_a_pid_that_is_not_the_container_s_is_not_taken(tmp_path: Path) -> None:
    """An engine's answer may be older than the process that has the pid now; and the node's own network is nobody's."""
    said = {
        "Id": "c" * 64,
        "Name": "/web",
        "State": {"Running": True, "Pid": os.getpid()},
        "Config": {"Labels": {"istio.io/dataplane-mode": "ambient"}},
    }
    async with answering(tmp_path, b'[{"Id":"c"}]', json.dumps(said).encode()) as path, following(path) as followed:
        await until(lambda: "is not the container's any more" in followed.runtime.problem, deadline_s=20)
        assert followed.told == ()


@pytest.mark.parametrize(
    ("state", "mode", "labels", "joins"),
    [
        ({"Running": True, "Pid": 5}, "bridge", {"istio.io/dataplane-mode": "ambient"}, True),
        ({"Running": True, "Pid": 5}, "bridge", {"istio.io/dataplane-mode": "none"}, False),
        ({"Running": True, "Pid": 5}, "bridge", None, False),
        ({"Running": True, "Pid": 5}, "host", {"istio.io/dataplane-mode": "ambient"}, False),
        ({"Running": True, "Pid": 5}, "container:abc", {"istio.io/dataplane-mode": "ambient"}, False),
        ({"Running": False, "Paused": True, "Pid": 5}, "bridge", {"istio.io/dataplane-mode": "ambient"}, True),
        ({"Running": False, "Pid": 5}, "bridge", {"istio.io/dataplane-mode": "ambient"}, False),
        ({"Running": True, "Pid": 0}, "bridge", {"istio.io/dataplane-mode": "ambient"}, False),
    ],
)
def test_who_joins(state: dict[str, object], mode: str, labels: dict[str, str] | None, *, joins: bool) -> None:
    said = {"Id": "a", "State": state, "HostConfig": {"NetworkMode": mode}, "Config": {"Labels": labels}}
    assert (msgspec.convert(said, Inspected).container() is not None) is joins
