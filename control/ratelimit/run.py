"""`meshctl ratelimit serve`: questions at one address, metrics and readiness at another, until a signal ends it in order."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web
from msgspec import Struct

from control.ratelimit.config import Domains
from control.ratelimit.files import Files
from control.ratelimit.metrics import CONTENT_TYPE, Metrics
from control.ratelimit.service import MAX_CONCURRENT, MAX_REQUEST_BYTES, Judge
from control.ratelimit.store import REDIS_TIMEOUT_S, MemoryStore, RedisStore, Store
from control.ratelimit.windows import MAX_KEYS, Windows
from control.rpc import aio
from systemdapi.notify import ServiceManager

STOP_GRACE_S: Final = 5.0
_LOOK_S: Final = 2.0
log = logging.getLogger(__name__)


class Settings(Struct, frozen=True):
    """`listen`: `address:port` or `unix:/path`; port 0 = any. `config`: the directory of files, if there is one.

    `redis_url`: without one, counts are kept in memory.
    """

    listen: str
    metrics_listen: tuple[str, int]
    config: Path | None = None
    redis_url: str = ""
    redis_timeout_s: float = REDIS_TIMEOUT_S
    max_keys: int = MAX_KEYS


class Ports(Struct, frozen=True):
    """Where it listens; 0 for a unix socket."""

    questions: int
    metrics: int


class Server:
    """The parts together. `ready` says whether questions can be answered now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._store = _store(settings, self._metrics)
        self._judge = Judge(self._store, self._metrics)
        self._counts = False
        self._opened = asyncio.Event()
        self._ports: Ports | None = None

    @property
    def not_ready(self) -> str | None:
        """Why it can't answer; None if it can."""
        if self._ports is None:
            return "the limits are not read yet"
        return None if self._counts else "Redis does not answer"

    async def ports(self) -> Ports:
        """Waits until it listens."""
        await self._opened.wait()
        if self._ports is None:
            raise AssertionError("opened without ports")
        return self._ports

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set. Raises ConfigurationError for files that are wrong at the start, and OSError."""
        files = Files(self._settings.config) if self._settings.config is not None else None
        if files is not None:
            # Without the limits that somebody wrote down nobody is let through: it does not start.
            first = await asyncio.get_running_loop().run_in_executor(None, files.read)
            self._judge.domains = first if first is not None else {}
        async with self._listening() as questions, self._telling() as metrics, asyncio.TaskGroup() as tasks:
            self._counts = await self._store.ready()
            self._ports = Ports(questions, metrics)
            self._opened.set()
            log.info("answers at %s (port %d), metrics at port %d", self._settings.listen, questions, metrics)
            beside = [
                tasks.create_task(self._look(), name="store"),
                tasks.create_task(ServiceManager().run(lambda: self.not_ready), name="service manager"),
            ]
            if files is not None:
                beside.append(tasks.create_task(files.follow(self._take, self._wrong), name="files"))
            await stop.wait()
            log.info("stopping")
            for task in beside:
                task.cancel()
        await self._store.close()

    def _take(self, domains: Domains) -> None:
        self._judge.domains = domains

    def _wrong(self, is_wrong: bool) -> None:
        self._metrics.reload_failed.set(is_wrong)

    async def _look(self) -> None:
        while True:
            self._counts = await self._store.ready()
            await asyncio.sleep(_LOOK_S)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[int]:
        options = (("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0))
        server = aio.server(options=options, maximum_concurrent_rpcs=MAX_CONCURRENT)
        server.add_generic_rpc_handlers((self._judge.handler(),))
        port = _bind(server, self._settings.listen)
        await server.start()
        try:
            yield 0 if self._settings.listen.startswith("unix:") else port
        finally:
            await server.stop(STOP_GRACE_S)

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[int]:
        async def metrics(_request: web.Request) -> web.Response:
            return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

        async def ready(_request: web.Request) -> web.Response:
            why = self.not_ready
            return web.Response(text="ready\n") if why is None else web.Response(status=503, text=f"{why}\n")

        app = web.Application(client_max_size=1024)
        app.add_routes([web.get("/metrics", metrics), web.get("/ready", ready)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, *self._settings.metrics_listen).start()
            yield int(runner.addresses[0][1])
        finally:
            await runner.cleanup()


def _bind(server: aio.Server, listen: str) -> int:
    """The port; of a unix socket, which only this user may use, any number. Raises OSError."""
    path = Path(listen.removeprefix("unix:")) if listen.startswith("unix:") else None
    if path is not None and path.is_socket():
        # A former process left it.
        path.unlink()
    former = os.umask(0o177)
    try:
        return server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"can't listen at {listen}: {error}") from error
    finally:
        os.umask(former)


def _store(settings: Settings, metrics: Metrics) -> Store:
    if settings.redis_url:
        return RedisStore(settings.redis_url, settings.redis_timeout_s)
    store = MemoryStore(Windows(settings.max_keys))
    metrics.observe(keys=lambda: store.keys, overflowed=lambda: store.windows.overflowed)
    return store


async def run_until_signal(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Server(settings).run(stop)
