"""The stream to the controller against a real gRPC server over TLS: what is said on it, what ends it, and that it always comes back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

from meshapi.attendance import ATTEND, LEAVE, SERVICE, Assigned, Health, Member, decode_attendance, encode_assignment
from nodeagent.vm.attendance import Attendance, leave
from nodeagent.xds.channel import Dial
from tests.nodeagent.identity.pki import authority
from tests.nodeagent.vm.joined import API, WEB
from tests.nodeagent.waiting import until

WAIT_S = 15.0
ROOT = authority("root", time.time())
Context = grpc.aio.ServicerContext


@dataclass
class Server:
    """Answers each message with what `answers` holds, the first time around; then with the last."""

    answers: list[bytes] = field(default_factory=lambda: [encode_assignment([Assigned(WEB, "uid", "web-1", "web")])])
    heard: list[tuple[Member, ...]] = field(default_factory=list)
    streams: int = 0
    refusals: int = 0
    left: int = 0
    knows: bool = True

    async def attend(self, _requests: object, context: "Context[bytes, bytes]") -> None:
        self.streams += 1
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not authenticated")
        while (body := await context.read()) is not grpc.aio.EOF:
            self.heard.append(decode_attendance(body))
            await context.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    async def leave(self, _body: bytes, context: "Context[bytes, bytes]") -> bytes:
        self.left += 1
        if not self.knows:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not authenticated")
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return b""


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Dial]:
    handlers = {
        ATTEND.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(server.attend),
        LEAVE.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(server.leave),
    }
    made = grpc.aio.server()
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = made.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([ROOT.server(time.time() - 60)]))
    await made.start()
    try:
        yield Dial(f"localhost:{port}", ROOT.pem, "c1", token="t")
    finally:
        await made.stop(None)


@asynccontextmanager
async def attending(server: Server) -> AsyncIterator[tuple[Attendance, list[tuple[Assigned, ...]]]]:
    assigned: list[tuple[Assigned, ...]] = []
    async with serving(server) as dial:
        attendance = Attendance(lambda: dial, assigned.append)
        attendance.say([Member(WEB)])
        task = asyncio.ensure_future(attendance.run())
        try:
            yield attendance, assigned
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_it_says_what_is_there_and_hears_what_it_is() -> None:
    server = Server()
    async with attending(server) as (attendance, assigned):
        await until(lambda: bool(assigned), deadline_s=WAIT_S)
        assert assigned[0][0].uid == "uid"
        assert not attendance.problem
        ill = Member(WEB, health=Health.UNHEALTHY, message="refused")
        attendance.say([ill, Member(API)])
        await until(lambda: server.heard[-1] == (ill, Member(API)), deadline_s=WAIT_S)
        attendance.say([ill, Member(API)])
        await until(lambda: len(assigned) == 2, deadline_s=WAIT_S)
    assert [len(said) for said in server.heard] == [1, 2], "nothing new is not said again"


async def test_who_is_refused_comes_back_and_says_it_all_again() -> None:
    server = Server(refusals=3)
    async with attending(server) as (attendance, assigned):
        await until(lambda: server.streams >= 2, deadline_s=WAIT_S)
        await until(lambda: bool(assigned), deadline_s=WAIT_S)
        assert not attendance.problem
    assert server.streams == 4
    assert server.heard[0] == (Member(WEB),)


async def test_an_answer_that_can_not_be_understood_changes_nothing_and_is_told() -> None:
    server = Server(answers=[b"\xff\xff", encode_assignment([Assigned(WEB, "uid", "web-1", "web")])])
    async with attending(server) as (_, assigned):
        await until(lambda: bool(assigned), deadline_s=WAIT_S)
    assert server.streams == 2
    assert [one[0].uid for one in assigned] == ["uid"]


async def test_without_credentials_it_waits_and_says_why() -> None:
    def nothing() -> Dial:
        raise ValueError("no certificate yet")

    attendance = Attendance(nothing, lambda _: None)
    task = asyncio.ensure_future(attendance.run())
    try:
        await until(lambda: "no certificate yet" in attendance.problem, deadline_s=WAIT_S)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_leaving_is_tried_again_where_the_way_is_cut_and_not_where_it_is_refused() -> None:
    server = Server(refusals=2)
    async with serving(server) as dial:
        await leave(dial)
        assert server.left == 3
        server.knows = False
        with pytest.raises(PermissionError):
            await leave(dial)
        assert server.left == 4
        with pytest.raises(OSError, match="root"):
            await leave(Dial(dial.target, b"", "c1", token="t"))
