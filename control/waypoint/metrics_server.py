"""The port at which metrics are read: where Istio's monitors look for those of a proxy. Envoy's own of its health are among them.

Whether Envoy is ready is told there, too.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from control.waypoint.limit_metrics import FILTER, limit_metrics
from control.waypoint.readiness import PATH as READY_PATH
from control.waypoint.readiness import is_ready
from control.waypoint.request_metrics import CONTENT_TYPE, RequestMetrics

PATH: Final = "/stats/prometheus"
_MAX_BODY_BYTES: Final = 1024
_OWN: Final = "^(access_logs|cluster_manager|listener_manager|server)[.]"
"""Of what Envoy counts, what says how it is: without names of clusters and routes, of which there is no end."""
_ENVOY_S: Final = 2.0
log = logging.getLogger(__name__)


@asynccontextmanager
async def serving_metrics(metrics: RequestMetrics, admin: Path, listen: tuple[str, int] | None) -> AsyncIterator[int | None]:
    """Answers at `listen`, if anywhere, and gives the port; raises OSError if that is taken. `admin`: Envoy's own socket."""
    if listen is None:
        yield None
        return

    async def answer(_request: web.Request) -> web.Response:
        own = await _of_envoy(admin, "/stats/prometheus", filter=_OWN)
        limits = await _of_envoy(admin, "/stats", filter=FILTER, format="json")
        body = metrics.render(time.monotonic()) + own + limit_metrics(limits)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def readiness(_request: web.Request) -> web.Response:
        ready = await is_ready(admin)
        return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)

    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_get(PATH, answer)
    app.router.add_get(READY_PATH, readiness)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, *listen).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _of_envoy(admin: Path, path: str, **query: str) -> bytes:
    """What Envoy says of itself; nothing while it does not answer."""
    connector = aiohttp.UnixConnector(path=str(admin))
    try:
        async with (
            asyncio.timeout(_ENVOY_S),
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://envoy{path}", params={"usedonly": "", **query}) as response,
        ):
            body = await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.info("envoy does not say how it is: %s", str(error)[:300] or type(error).__name__)
        return b""
    return body if response.status == web.HTTPOk.status_code else b""
