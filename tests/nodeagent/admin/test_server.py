"""The admin socket itself: private, JSON, errors in words, and an end."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from nodeagent.admin.reports import (
    CaptureReport,
    CertificatesReport,
    ConnectionReport,
    PolicyReport,
    RemoteWorkloadReport,
    ServiceReport,
    StatusReport,
    WorkloadReport,
)
from nodeagent.admin.server import AdminServer, UnavailableError
from nodeagent.resolve.explanation import Explanation, Outcome
from tests.nodeagent.cli import samples
from tests.nodeagent.waiting import until


async def page() -> bytes:
    return b"a_counter 1\n"


class Agent:
    """Says what the samples say."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.ended = self.yielded = False
        self.alone_s = 0.0
        self.more = asyncio.Event()

    async def status(self) -> StatusReport:
        return samples.GOOD

    def workloads(self) -> list[WorkloadReport]:
        return [samples.WORKLOAD]

    def known_workloads(self) -> list[RemoteWorkloadReport]:
        return [samples.REMOTE]

    def services(self) -> list[ServiceReport]:
        return [samples.SERVICE]

    def policies(self) -> list[PolicyReport]:
        return samples.POLICIES

    def certificates(self) -> CertificatesReport:
        return samples.CERTIFICATES

    async def connections(self) -> list[ConnectionReport]:
        raise UnavailableError("no proxy is connected")

    async def captures(self) -> list[CaptureReport]:
        return [samples.CAPTURE]

    async def log_lines(self, count: int, *, follow: bool) -> AsyncIterator[str]:
        for number in range(count):
            yield f"line {number}"
        if follow:
            await self.more.wait()
            yield "one more"

    async def explain(self, source: str, destination: str) -> Explanation:
        self.asked.append((source, destination))
        return Explanation(Outcome.ALLOWED, ())

    async def down(self, drain_s: float) -> list[str]:
        self.asked.append(drain_s)
        return ["default/shop"]

    def end(self) -> None:
        self.ended = True

    def go_on_alone(self, for_s: float) -> None:
        self.alone_s = for_s

    def yield_place(self) -> None:
        self.yielded = True


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@asynccontextmanager
async def serving(agent: Agent, run_dir: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(AdminServer(agent, run_dir, page).run())
        await until(lambda: answers(run_dir / "admin.sock"))
        async with aiohttp.ClientSession("http://agent", connector=aiohttp.UnixConnector(str(run_dir / "admin.sock"))) as client:
            yield client
        task.cancel()


async def get(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with client.get(path) as response:
        return response.status, msgspec.json.decode(await response.read())


async def test_every_report_is_served(tmp_path: Path) -> None:
    expected = {
        "/status": samples.GOOD,
        "/workloads": [samples.WORKLOAD],
        "/workloads/all": [samples.REMOTE],
        "/services": [samples.SERVICE],
        "/policies": samples.POLICIES,
        "/certs": samples.CERTIFICATES,
        "/capture": [samples.CAPTURE],
    }
    async with serving(Agent(), tmp_path) as client:
        for path, report in expected.items():
            assert await get(client, path) == (200, msgspec.json.decode(msgspec.json.encode(report))), path


async def test_the_socket_is_private_replaces_one_that_was_left_and_goes_with_its_server(tmp_path: Path) -> None:
    file = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(file))
    file.with_suffix(".draft").write_text("left by an agent that was killed while it began")
    async with serving(Agent(), tmp_path) as client:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert (await get(client, "/workloads"))[0] == 200
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - no more than the names


async def test_a_server_that_ends_leaves_its_successors_socket(tmp_path: Path) -> None:
    async with serving(Agent(), tmp_path):
        successor = AdminServer(Agent(), tmp_path, page)
        former = (tmp_path / "admin.sock").stat().st_ino
        task = asyncio.ensure_future(successor.run())
        await until(lambda: (tmp_path / "admin.sock").stat().st_ino != former)
    async with aiohttp.ClientSession("http://agent", connector=aiohttp.UnixConnector(str(tmp_path / "admin.sock"))) as client:
        assert (await get(client, "/workloads"))[0] == 200
    task.cancel()
    await asyncio.wait([task])


async def test_explain_down_and_what_is_refused(tmp_path: Path) -> None:
    agent = Agent()
    async with serving(agent, tmp_path) as client:
        assert await get(client, "/explain?source=a/b&destination=%5Bfd00::1%5D:80") == (
            200,
            {"outcome": "allowed", "steps": [], "unknown": []},
        )
        assert await get(client, "/explain?source=a/b") == (400, {"error": "destination is missing"})
        assert await get(client, "/connections") == (503, {"error": "no proxy is connected"})
        assert (await get(client, "/nothing"))[0] == 404
        assert (await get(client, "/down"))[0] == 405
        for wrong in ("x", "-1", "nan", "inf", "3601"):
            async with client.post(f"/down?drain_s={wrong}") as response:
                assert response.status == 400, wrong
        assert agent.asked == [("a/b", "[fd00::1]:80")]
        assert not agent.ended
        async with client.post("/down?drain_s=2.5") as response:
            assert msgspec.json.decode(await response.read()) == ["default/shop"]
        assert agent.asked[-1] == 2.5
        await until(lambda: agent.ended)


async def test_yield_is_answered_first(tmp_path: Path) -> None:
    agent = Agent()
    async with serving(agent, tmp_path) as client:
        assert (await get(client, "/yield"))[0] == 405
        assert not agent.yielded
        async with client.post("/yield") as response:
            assert msgspec.json.decode(await response.read()) == os.getpid()
        await until(lambda: agent.yielded)


async def test_going_on_alone_is_bounded(tmp_path: Path) -> None:
    agent = Agent()
    async with serving(agent, tmp_path) as client:
        async with client.post("/alone?for_s=121") as response:
            assert response.status == 400
        assert agent.alone_s == 0.0
        async with client.post("/alone?for_s=60") as response:
            assert msgspec.json.decode(await response.read()) == 60.0
        assert agent.alone_s == 60.0


async def test_logs_end_or_follow(tmp_path: Path) -> None:
    agent = Agent()
    async with serving(agent, tmp_path) as client:
        async with client.get("/logs?count=2") as response:
            assert await response.text() == "line 0\nline 1\n"
        async with client.get("/logs?count=1&follow=1") as response:
            assert await response.content.readline() == b"line 0\n"
            agent.more.set()
            assert await response.content.readline() == b"one more\n"
        async with client.get("/logs?count=10001") as response:
            assert response.status == 400


async def test_a_path_that_cannot_be_listened_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r".+"):
        await AdminServer(Agent(), tmp_path / "missing", page).run()


async def test_a_follower_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    async with asyncio.timeout(5):
        async with serving(Agent(), tmp_path) as client:
            response = await client.get("/logs?count=1&follow=1")
            assert await response.content.readline() == b"line 0\n"
    with suppress(aiohttp.ClientError):
        response.close()
