"""What the service manager hears, on a real socket."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from systemdapi.notify import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """The manager's socket, and what it puts into the environment."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        listening.settimeout(10)
        yield listening, {"NOTIFY_SOCKET": address}


def heard(listening: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in listening.recv(4096).decode().split("\n"))


@contextlib.asynccontextmanager
async def running(environment: dict[str, str], reasons: list[str | None]) -> AsyncIterator[None]:
    """A service whose state is the last of `reasons`."""
    task = asyncio.ensure_future(ServiceManager(environment).run(lambda: reasons[-1]))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_it_is_ready_when_it_is_and_not_before(manager: tuple[socket.socket, dict[str, str]]) -> None:
    listening, environment = manager
    reasons: list[str | None] = ["the proxy\nis away"]
    async with running(environment, reasons):
        first = await asyncio.to_thread(heard, listening)
        assert first == {"EXTEND_TIMEOUT_USEC": "30000000", "STATUS": "the proxy is away"}
        assert await asyncio.to_thread(heard, listening) == {"EXTEND_TIMEOUT_USEC": "30000000"}, "it lives, and that is all"
        reasons.append(None)
        while "READY" not in (said := await asyncio.to_thread(heard, listening)):
            assert said == {"EXTEND_TIMEOUT_USEC": "30000000"}
        assert said == {"READY": "1", "WATCHDOG": "1", "STATUS": "serving"}
        # Ready is for good: what it says of itself afterwards is no reason to start it again.
        reasons.append("away again")
        while "STATUS" not in (said := await asyncio.to_thread(heard, listening)):
            assert said == {"READY": "1", "WATCHDOG": "1"}
        assert said == {"READY": "1", "WATCHDOG": "1", "STATUS": "away again"}
    while "STOPPING" not in (said := heard(listening)):
        assert said["WATCHDOG"] == "1"
    assert said == {"STOPPING": "1"}


async def test_a_loop_that_lives_says_so_three_times_within_the_watchdogs_time(manager: tuple[socket.socket, dict[str, str]]) -> None:
    listening, environment = manager
    given = {**environment, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": str(os.getpid())}
    async with running(given, [None]):
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        for _ in range(4):
            assert (await asyncio.to_thread(heard, listening))["WATCHDOG"] == "1"
        assert loop.time() - begun_s < 10


async def test_nobody_who_asked_nobody_who_is_told() -> None:
    async with running({}, [None]):
        await asyncio.sleep(0)
    ServiceManager({}).tell(READY=1)


def test_a_manager_that_is_gone_costs_a_line_of_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    for _ in range(3):
        made.tell(READY=1)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["the service manager can't be told READY"]
