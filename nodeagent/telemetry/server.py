"""The node's two HTTP ports: metrics, and readiness."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Final, NoReturn

from aiohttp import web

REFRESH_DEADLINE_S: Final = 0.5
FRESH_S: Final = 0.1
KEEPALIVE_S: Final = 20.0
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Address = tuple[str, int]


class TelemetryServer:
    """`refresh` asks the proxy for what it counted and returns when that arrived or can't; `not_ready` says why not, None when ready."""

    def __init__(
        self,
        *,
        metrics: Address,
        readiness: Address,
        render: Callable[[], bytes],
        refresh: Callable[[], Awaitable[None]],
        not_ready: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._render = render
        self._refresh = refresh
        self._not_ready = not_ready
        self._clock = clock
        self._refreshing = asyncio.Lock()
        self._refreshed_s = float("-inf")
        self.addresses: dict[str, Address] = {}
        """Where it listens, by `metrics` and `readiness`; empty until it does."""

    async def run(self) -> NoReturn:
        """Serves until it is cancelled; raises OSError if a port is taken."""
        async with AsyncExitStack() as stack:
            addresses = {
                "metrics": await self._serve(stack, self._metrics, "/metrics", self._answer_metrics),
                "readiness": await self._serve(stack, self._readiness, "/healthz/ready", self._answer_readiness),
            }
            self.addresses = addresses
            await asyncio.Event().wait()
        raise AssertionError("only cancellation ends the wait")

    async def _serve(
        self, stack: AsyncExitStack, address: Address, path: str, answer: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Address:
        application = web.Application(client_max_size=1024)
        application.router.add_get(path, answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0, keepalive_timeout=KEEPALIVE_S)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, *address).start()
        host, port, *_ = runner.addresses[0]
        return host, port

    async def page(self) -> bytes:
        """The metrics as they are now, in Prometheus' text format."""
        # What was counted a moment ago is told rather than nothing when the proxy is away or slow.
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_DEADLINE_S), self._refreshing:
                # Those who asked meanwhile share one report: asking the proxy is not theirs to repeat.
                if self._clock() - self._refreshed_s >= FRESH_S:
                    await self._refresh()
                    self._refreshed_s = self._clock()
        return self._render()

    async def _answer_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self.page(), headers={"Content-Type": CONTENT_TYPE})

    async def _answer_readiness(self, _request: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(text="ready\n") if reason is None else web.Response(text=f"{reason}\n", status=503)
