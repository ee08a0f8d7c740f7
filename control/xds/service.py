"""The gRPC edge of discovery: reads requests, writes what the stream's state machine says, and closes when it must."""

import asyncio
import logging
from dataclasses import dataclass

from control.ca.audit import AuditLog, AuditRecord
from control.ca.callers import Authenticator, Joining
from control.ca.limits import CallerLimits, Limits
from control.ca.refusal import ForbiddenError, MalformedError, RefusedError, UnauthenticatedError
from control.metrics import Metrics
from control.rpc import END_OF_STREAM, RPCHandler, aio, credentials_of, grpc, status_of
from control.xds.connection import ClosedError, Connection
from control.xds.hub import Hub
from control.xds.pace import Pace
from control.xds.subscription import RequestError
from meshapi import discovery

SERVICE, METHOD = discovery.DELTA_METHOD.lstrip("/").split("/")
FIRST_REQUEST_S = 30.0
WRITE_S = 60.0
STREAM_LIMITS = Limits(rate_per_s=2, burst=30, queue=16)
"""Of streams opened by one node: an agent that backs off as it should stays far below."""
log = logging.getLogger(__name__)
Context = aio.ServicerContext


@dataclass(frozen=True)
class Access:
    """Who may open streams, how often, and where it is noted when one may not."""

    authenticator: Authenticator
    cluster: str
    openings: CallerLimits
    audit: AuditLog
    metrics: Metrics


class DiscoveryService:
    """Serves delta discovery to whom one authenticator lets in, if it is an agent."""

    def __init__(self, hub: Hub, access: Access) -> None:
        self._hub = hub
        self._access = access

    def handler(self) -> RPCHandler:
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(self._serve)})

    async def _serve(self, _requests: object, context: "Context[bytes, bytes]") -> None:
        try:
            connection = await self._opened(context)
            try:
                await self._converse(connection, context)
            finally:
                self._hub.leave(connection)
        except ClosedError:
            return
        except RefusedError as error:
            self._record(context, error)
            code, details = status_of(error)
        except TimeoutError:
            code, details = grpc.StatusCode.DEADLINE_EXCEEDED, "the client neither asks nor reads"
        else:
            return
        await context.abort(code, details)

    async def _opened(self, context: "Context[bytes, bytes]") -> Connection:
        credentials = credentials_of(context)
        caller = await self._access.authenticator.authenticate(credentials)
        if credentials.cluster not in {None, self._access.cluster}:
            raise UnauthenticatedError("cluster", f"node {caller.node} claims cluster {credentials.cluster!r}")
        if isinstance(caller, Joining):
            raise ForbiddenError("token-scope", f"{caller.node} has no certificate yet")
        async with self._access.openings.admitted(caller.node):
            return self._hub.open(caller, credentials)

    async def _converse(self, connection: Connection, context: "Context[bytes, bytes]") -> None:
        """Until the client closes, breaks the protocol, or loses its right."""
        name = f"discovery {connection.agent.node} {connection.credentials.peer}"
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [
                    tasks.create_task(self._write(connection, context), name=f"{name} write"),
                    tasks.create_task(connection.until_ended(), name=f"{name} end"),
                ]
                await self._read(connection, context)
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _read(self, connection: Connection, context: "Context[bytes, bytes]") -> None:
        pace = Pace(asyncio.get_running_loop().time)
        async with asyncio.timeout(FIRST_REQUEST_S):
            body = await context.read()
        while body is not END_OF_STREAM:
            try:
                request = discovery.decode_request(body)
                self._hub.receive(connection, request)
            except (discovery.DiscoveryError, RequestError) as error:
                raise MalformedError("discovery-request", str(error)[:300]) from error
            await pace.turn(len(request.subscribe) + len(request.unsubscribe))
            body = await context.read()

    async def _write(self, connection: Connection, context: "Context[bytes, bytes]") -> None:
        while True:
            await connection.wake.wait()
            connection.wake.clear()
            while connection.outbox:
                response = connection.outbox.popleft()
                async with asyncio.timeout(WRITE_S):
                    await context.write(discovery.encode_response(response))
                self._access.metrics.pushes.labels(response.type_url).inc()

    def _record(self, context: "Context[bytes, bytes]", error: RefusedError) -> None:
        self._access.metrics.streams_refused.labels(error.check).inc()
        record = AuditRecord("discovery", "refused", caller="", peer=context.peer(), check=error.check, detail=error.detail)
        self._access.audit.refused(record)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
