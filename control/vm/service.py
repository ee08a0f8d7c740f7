"""The gRPC edge for machines: a stream in which each says what it is, and is told as what; and the call with which it leaves."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from control.ca.audit import AuditLog, AuditRecord
from control.ca.authority import Clock
from control.ca.callers import CertificateAuthenticator, NodeAgent
from control.ca.limits import CallerLimits
from control.ca.peers import peer_address
from control.ca.refusal import ForbiddenError, MalformedError, RefusedError, UnauthenticatedError
from control.ca.revocations import Revocations
from control.metrics import Metrics
from control.rpc import END_OF_STREAM, RPCHandler, aio, credentials_of, grpc, status_of
from control.vm.machines import Connection, LeavingError, Machines
from meshapi import attendance
from meshapi.decoding import ModelError
from meshapi.spiffe import AgentIdentity
from meshapi.vm import VMName, parse_vm

FIRST_MESSAGE_S: Final = 30.0
WRITE_S: Final = 30.0
LOOK_S: Final = 1.0
LEAVE_S: Final = 20.0
PACE_S: Final = 0.2
"""Between two messages of one machine: what it says in between, it says again with the next."""
log = logging.getLogger(__name__)
Context = aio.ServicerContext


@dataclass(frozen=True)
class Parts:
    """What the service stands on."""

    machines: Machines
    authenticator: CertificateAuthenticator
    revocations: Revocations
    openings: CallerLimits
    audit: AuditLog
    metrics: Metrics
    trust_domain: str
    cluster: str
    clock: Clock


@dataclass(frozen=True)
class _Caller:
    agent: NodeAgent
    machine: VMName
    source: str


class _RevokedError(UnauthenticatedError):
    """While it was connected."""


class MachineService:
    """Serves machines by their agents' certificates, and nobody else."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def handler(self) -> RPCHandler:
        handlers = {
            attendance.ATTEND.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(self._attend),
            attendance.LEAVE.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(self._leave),
        }
        return grpc.method_handlers_generic_handler(attendance.SERVICE, handlers)

    async def _attend(self, _requests: object, context: "Context[bytes, bytes]") -> None:
        try:
            caller = await self._caller(context)
            async with self._parts.openings.admitted(caller.agent.node):
                connection = self._open(caller)
            try:
                await self._converse(connection, caller, context)
            except _RevokedError:
                # Another controller may have let it leave, or its operator wants it gone.
                self._parts.machines.expel(caller.machine)
                raise
            finally:
                self._parts.machines.close(connection)
        except RefusedError as error:
            await self._refuse(context, error)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the client neither speaks nor reads")

    async def _leave(self, _body: bytes, context: "Context[bytes, bytes]") -> bytes:
        parts = self._parts
        try:
            caller = await self._caller(context)
            async with parts.openings.admitted(caller.agent.node), asyncio.timeout(LEAVE_S), parts.machines.left(caller.machine):
                # Last: a machine that was cut off on its way out can say it again.
                parts.revocations.revoke(AgentIdentity(parts.trust_domain, caller.agent.node), parts.clock())
        except RefusedError as error:
            await self._refuse(context, error)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "its entries could not be removed now")
        log.info("machine %s has left", caller.agent.node)
        return b""

    def _open(self, caller: _Caller) -> Connection:
        try:
            return self._parts.machines.open(caller.machine, caller.source, self._parts.clock())
        except LeavingError as error:
            raise ForbiddenError("leaving", f"machine {caller.agent.node} is leaving") from error

    async def _caller(self, context: "Context[bytes, bytes]") -> _Caller:
        credentials = credentials_of(context)
        agent = await self._parts.authenticator.authenticate(credentials)
        if credentials.cluster not in {None, self._parts.cluster}:
            raise UnauthenticatedError("cluster", f"node {agent.node} claims cluster {credentials.cluster!r}")
        machine = parse_vm(agent.node) if isinstance(agent, NodeAgent) else None
        if machine is None or not isinstance(agent, NodeAgent):
            raise ForbiddenError("not-a-machine", f"node {agent.node} is one of the cluster")
        source = peer_address(credentials.peer)
        return _Caller(agent, machine, str(source) if source is not None else "")

    async def _converse(self, connection: Connection, caller: _Caller, context: "Context[bytes, bytes]") -> None:
        name = f"machine {caller.agent.node}"
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [
                    tasks.create_task(self._write(connection, context), name=f"{name} write"),
                    tasks.create_task(self._watch_right(caller), name=f"{name} right"),
                    tasks.create_task(_until_superseded(connection), name=f"{name} end"),
                ]
                await self._read(connection, context)
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from group

    async def _read(self, connection: Connection, context: "Context[bytes, bytes]") -> None:
        async with asyncio.timeout(FIRST_MESSAGE_S):
            body = await context.read()
        while body is not END_OF_STREAM:
            try:
                members = attendance.decode_attendance(body)
            except ModelError as error:
                raise MalformedError("attendance", str(error)[:300]) from error
            self._parts.machines.hear(connection, members)
            await asyncio.sleep(PACE_S)
            body = await context.read()

    async def _write(self, connection: Connection, context: "Context[bytes, bytes]") -> None:
        while True:
            await connection.told.wait()
            connection.told.clear()
            async with asyncio.timeout(WRITE_S):
                await context.write(attendance.encode_assignment(connection.assigned))

    async def _watch_right(self, caller: _Caller) -> None:
        """Raises UnauthenticatedError once the certificate is over or the machine's last group is gone, _RevokedError if it is revoked."""
        identity = AgentIdentity(self._parts.trust_domain, caller.agent.node)
        while True:
            await asyncio.sleep(LOOK_S)
            if caller.agent.certificate_not_before_s < self._parts.revocations.before_s(identity):
                raise _RevokedError("certificate-revoked", f"the certificate of machine {caller.agent.node} is revoked")
            self._parts.authenticator.check_still_valid(caller.agent)

    async def _refuse(self, context: "Context[bytes, bytes]", error: RefusedError) -> None:
        self._parts.metrics.streams_refused.labels(error.check).inc()
        self._parts.audit.refused(AuditRecord("machine", "refused", caller="", peer=context.peer(), check=error.check, detail=error.detail))
        code, details = status_of(error)
        await context.abort(code, details)


async def _until_superseded(connection: Connection) -> None:
    await connection.superseded.wait()
    raise ForbiddenError("superseded", f"machine {connection.connected.machine.node} has connected again, or leaves")
