"""The admin socket: JSON over HTTP, for the user of the agent alone. It shows and explains; `down` and `yield` end the agent."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, Protocol

import msgspec
from aiohttp import web

from nodeagent.admin.reports import (
    CaptureReport,
    CertificatesReport,
    ConnectionReport,
    Failure,
    PolicyReport,
    RemoteWorkloadReport,
    ServiceReport,
    StatusReport,
    UnavailableError,
    WorkloadReport,
)
from nodeagent.linux import private_socket
from nodeagent.resolve.explanation import Explanation

SOCKET: Final = "admin.sock"
MAX_DRAIN_S: Final = 3600.0
MAX_ALONE_S: Final = 120.0
MAX_LINES: Final = 10_000


class Agent(Protocol):
    """Whom the socket asks."""

    async def status(self) -> StatusReport: ...

    def workloads(self) -> list[WorkloadReport]: ...

    def known_workloads(self) -> list[RemoteWorkloadReport]: ...

    def services(self) -> list[ServiceReport]: ...

    def policies(self) -> list[PolicyReport]: ...

    def certificates(self) -> CertificatesReport: ...

    async def connections(self) -> list[ConnectionReport]: ...

    async def captures(self) -> list[CaptureReport]: ...

    def log_lines(self, count: int, *, follow: bool) -> AsyncIterator[str]: ...

    async def explain(self, source: str, destination: str) -> Explanation: ...

    async def down(self, drain_s: float) -> list[str]:
        """Returns what was released, once it is and the proxy has ended."""

    def end(self) -> None:
        """Ends the agent, after `down` was answered."""

    def go_on_alone(self, for_s: float) -> None:
        """Hears nothing of the controller for so long."""

    def yield_place(self) -> None:
        """Ends the agent for another that takes its place."""


class AdminServer:
    """Serves `admin.sock` in the run directory, mode 0600."""

    def __init__(self, agent: Agent, run_dir: Path, metrics: Callable[[], Awaitable[bytes]]) -> None:
        """`metrics` gives them in Prometheus' text format."""
        self._agent = agent
        self._metrics = metrics
        self._path = run_dir / SOCKET

    async def run(self) -> NoReturn:
        """Serves until it is cancelled; raises OSError if the socket can't be made."""
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0)
        with private_socket.listen(self._path) as listening:
            ours = self._path.stat().st_ino
            await runner.setup()
            try:
                await web.SockSite(runner, listening).start()
                await asyncio.Event().wait()
            finally:
                private_socket.remove(self._path, ours)
                await runner.cleanup()
        raise AssertionError("only cancellation ends the wait")

    def _application(self) -> web.Application:
        agent = self._agent
        application = web.Application(client_max_size=4096, middlewares=[_failures])
        router = application.router
        router.add_get("/status", _answer(agent.status))
        router.add_get("/workloads", _answer(agent.workloads))
        router.add_get("/workloads/all", _answer(agent.known_workloads))
        router.add_get("/services", _answer(agent.services))
        router.add_get("/policies", _answer(agent.policies))
        router.add_get("/certs", _answer(agent.certificates))
        router.add_get("/connections", _answer(agent.connections))
        router.add_get("/capture", _answer(agent.captures))
        router.add_get("/logs", self._logs)
        router.add_get("/metrics", self._page)
        router.add_get("/explain", self._explain)
        router.add_post("/down", self._down)
        router.add_post("/yield", self._yield)
        router.add_post("/alone", self._alone)
        return application

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        count = int(_number(request, "count", 100, MAX_LINES))
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        with suppress(ConnectionError):
            async for line in self._agent.log_lines(count, follow="follow" in request.query):
                await response.write(f"{line}\n".encode())
            await response.write_eof()
        return response

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), content_type="text/plain", charset="utf-8")

    async def _explain(self, request: web.Request) -> web.Response:
        try:
            source, destination = request.query["source"], request.query["destination"]
        except KeyError as error:
            raise _BadRequestError(f"{error.args[0]} is missing") from error
        return _json(await self._agent.explain(source, destination))

    async def _down(self, request: web.Request) -> web.Response:
        released = await self._agent.down(_number(request, "drain_s", 0.0, MAX_DRAIN_S))
        response = _json(released)
        await response.prepare(request)
        await response.write_eof()
        self._agent.end()
        return response

    async def _alone(self, request: web.Request) -> web.Response:
        for_s = _number(request, "for_s", 0.0, MAX_ALONE_S)
        self._agent.go_on_alone(for_s)
        return _json(for_s)

    async def _yield(self, request: web.Request) -> web.Response:
        response = _json(os.getpid())
        await response.prepare(request)
        await response.write_eof()
        self._agent.yield_place()
        return response


class _BadRequestError(Exception):
    """The caller's mistake, in words."""


@web.middleware
async def _failures(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    try:
        return await handler(request)
    except _BadRequestError as error:
        return _json(Failure(str(error)), status=400)
    except UnavailableError as error:
        return _json(Failure(str(error)), status=503)
    except web.HTTPException as error:
        return _json(Failure(f"{request.method} {request.path}: {error.reason}"), status=error.status)


def _answer(ask: Callable[[], object]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_request: web.Request) -> web.Response:
        answer = ask()
        return _json(await answer if isinstance(answer, Awaitable) else answer)

    return handler


def _number(request: web.Request, name: str, default: float, limit: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= limit:
        raise _BadRequestError(f"{name} must be a number from 0 to {limit:g}")
    return value


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
