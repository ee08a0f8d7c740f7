"""control/ratelimit: the whole server, asked by gRPC; with files that change, with a real Redis, and without it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from grpc import StatusCode, aio

from control.envoy.messages import message_class
from control.ratelimit.config import ConfigurationError
from control.ratelimit.run import Ports, Server, Settings
from tests.control.ratelimit.redis_server import RealRedis, real_redis
from tests.control.ratelimit.test_asking import body, stated

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
FILE = "domain: shop\ndescriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: %s}}]"
read = message_class("envoy.service.ratelimit.v3.RateLimitResponse").FromString
OK, OVER = 1, 2


class Asked:
    """A running server and who asks it."""

    def __init__(self, ports: Ports, channel: aio.Channel) -> None:
        self._ports = ports
        self._call: Any = channel.unary_unary(METHOD)

    async def ask(self, raw: bytes) -> Any:
        return read(await self._call(raw, timeout=20))

    async def code(self, domain: str, *descriptors: Any) -> int:
        return int((await self.ask(body(domain, *descriptors))).overall_code)

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self._ports.metrics}{path}") as found:
            return found.status, await found.text()

    async def metric(self, name: str) -> float:
        _, text = await self.get("/metrics")
        return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Asked]:
    settings = Settings(**{"listen": "127.0.0.1:0", "metrics_listen": ("127.0.0.1", 0), **options})
    server, stop = Server(settings), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run(stop))
        opened = asyncio.ensure_future(server.ports())
        await asyncio.wait([task, opened], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            opened.cancel()
            await task
        ports = await opened
        where = settings.listen if settings.listen.startswith("unix:") else f"127.0.0.1:{ports.questions}"
        try:
            async with aio.insecure_channel(where) as channel:
                yield Asked(ports, channel)
        finally:
            stop.set()


async def until(check: Any, what: str) -> None:
    try:
        async with asyncio.timeout(20):
            while not await check():  # noqa: ASYNC110 -- another process's state
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within 20 s: {what}")


LIMIT = stated("3/day", ("0", "ann"))
OTHER = stated("3/day", ("0", "bob"))


async def test_limits_that_the_question_states(tmp_path: Path) -> None:
    async with running(listen=f"unix:{tmp_path}/limits.sock") as server:
        assert (tmp_path / "limits.sock").stat().st_mode & 0o777 == 0o600
        assert [await server.code("nodemesh.io/a/b", LIMIT) for _ in range(4)] == [OK, OK, OK, OVER]
        assert await server.code("nodemesh.io/a/b", OTHER) == OK
        # Beyond one of several is beyond.
        assert await server.code("nodemesh.io/a/b", OTHER, LIMIT) == OVER
        assert await server.code("nodemesh.io/a/c", LIMIT) == OK
        assert await server.get("/ready") == (200, "ready\n")
        assert await server.metric('nodemesh_rate_limit_decisions_total{decision="over"}') == 2
        assert await server.metric("nodemesh_rate_limit_keys") == 3


async def test_what_is_malformed_is_an_error_and_not_let_through() -> None:
    async with running() as server:
        for raw in (b"\xff", body("shop"), body("nodemesh.io/a/b", [("rule", "1")]), b"x" * 300_000):
            with pytest.raises(aio.AioRpcError) as caught:
                await server.ask(raw)
            assert caught.value.code() in {StatusCode.INVALID_ARGUMENT, StatusCode.RESOURCE_EXHAUSTED}
        assert await server.metric('nodemesh_rate_limit_failures_total{why="malformed"}') == 3
        assert await server.code("nodemesh.io/a/b", LIMIT) == OK


async def test_files_are_followed_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(FILE % 1)
    user = [("user", "ann")]
    async with running(config=tmp_path) as server:
        assert [await server.code("shop", user) for _ in range(2)] == [OK, OVER]
        file.write_text(FILE % 5)

        async def holds() -> bool:
            return bool((await server.ask(body("shop", [("user", "bob")]))).statuses[0].current_limit.requests_per_unit == 5)

        await until(holds, "the change is in force")
        assert await server.code("shop", user) == OK
        (tmp_path / "another.yaml").write_text("domain: more")
        file.write_text(FILE % "many")

        async def wrong() -> bool:
            return await server.metric("nodemesh_rate_limit_reload_failed") == 1

        await until(wrong, "the fault is told")
        assert await holds()
        file.write_text(FILE % 5)

        async def right() -> bool:
            return await server.metric("nodemesh_rate_limit_reload_failed") == 0

        await until(right, "it is well again")


async def test_it_does_not_start_without_the_limits_that_are_written(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(FILE % "many")
    with pytest.raises(ConfigurationError):
        await Server(Settings("127.0.0.1:0", ("127.0.0.1", 0), config=tmp_path)).run(asyncio.Event())


async def test_a_flood_of_keys_is_bounded_and_told() -> None:
    async with running(max_keys=64) as server:
        for start in range(0, 1000, 100):
            await server.code("nodemesh.io/a/b", *[stated("900/day", ("0", f"{number}")) for number in range(start, start + 100)])
        assert await server.metric("nodemesh_rate_limit_keys") == 17
        assert await server.metric("nodemesh_rate_limit_overflowed") == 1000 - 16
        # All that came too late share one budget, which is used up.
        assert await server.code("nodemesh.io/a/b", stated("900/day", ("0", "new"))) == OVER
        assert await server.code("nodemesh.io/a/b", stated("900/day", ("0", "3"))) == OK


# ---- Redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    with real_redis(tmp_path_factory.mktemp("redis")) as found:
        yield found


async def test_servers_count_together_in_redis(redis: RealRedis) -> None:
    async with running(redis_url=redis.url, redis_timeout_s=10) as first, running(redis_url=redis.url, redis_timeout_s=10) as second:
        found = [await server.code("nodemesh.io/a/together", LIMIT) for server in (first, second) * 3]
        assert found == [OK, OK, OK, OVER, OVER, OVER]
    with redis.client() as client:
        keys = list(client.scan_iter("nodemesh:limit:*"))
        # Nothing stays for ever, and no name has what a caller sent.
        assert keys
        assert all(0 < client.ttl(key) <= 86400 for key in keys)
        assert not any(b"ann" in key for key in keys)


async def test_without_redis_nobody_counts_and_so_it_says(redis: RealRedis) -> None:
    async with running(redis_url=redis.url, redis_timeout_s=2) as server:
        assert await server.code("nodemesh.io/a/gone", LIMIT) == OK
        redis.stop()
        try:
            with pytest.raises(aio.AioRpcError) as caught:
                await server.code("nodemesh.io/a/gone", LIMIT)
            assert caught.value.code() is StatusCode.UNAVAILABLE
            assert await server.metric('nodemesh_rate_limit_failures_total{why="uncounted"}') == 1

            async def unready() -> bool:
                return (await server.get("/ready"))[0] == 503

            await until(unready, "it is not ready")
        finally:
            redis.start()

        async def answers() -> bool:
            return (await server.get("/ready"))[0] == 200

        await until(answers, "it is ready again")
        assert await server.code("nodemesh.io/a/gone", LIMIT) == OK


async def test_a_redis_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    path = tmp_path / "silent.sock"
    async with await asyncio.start_unix_server(silent, path), running(redis_url=f"unix://{path}", redis_timeout_s=0.2) as server:
        async with asyncio.timeout(15):
            for _ in range(3):
                with pytest.raises(aio.AioRpcError) as caught:
                    await server.code("nodemesh.io/a/b", LIMIT)
                assert caught.value.code() is StatusCode.UNAVAILABLE


def test_an_address_that_is_none() -> None:
    with pytest.raises(ValueError, match="scheme"):
        Server(Settings("127.0.0.1:0", ("127.0.0.1", 0), redis_url="nonsense"))
