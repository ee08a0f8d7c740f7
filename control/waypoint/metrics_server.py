"""The port at which metrics are read: where Istio's monitors look for those of a proxy."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from control.waypoint.request_metrics import CONTENT_TYPE, RequestMetrics

PATH: Final = "/stats/prometheus"
_MAX_BODY_BYTES: Final = 1024


@asynccontextmanager
async def serving_metrics(metrics: RequestMetrics, listen: tuple[str, int] | None) -> AsyncIterator[int | None]:
    """Answers at `listen`, if anywhere, and gives the port; raises OSError if that is taken."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(time.monotonic()), headers={"Content-Type": CONTENT_TYPE})

    if listen is None:
        yield None
        return
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_get(PATH, answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, *listen).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
