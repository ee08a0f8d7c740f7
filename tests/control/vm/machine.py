"""A machine's side of the wire, for tests: attends, and keeps what it was told. Independent of the agent's own code."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from control.rpc import aio, grpc
from meshapi.attendance import ATTEND, LEAVE, Assigned, Member, decode_assignment, encode_attendance
from meshapi.vm import GroupName
from tests.control.agent import WAIT_S, Agent

WEB = GroupName("shop", "web")
METADATA = (("clusterid", "Kubernetes"),)


class Attending:
    """One stream."""

    def __init__(self, channel: aio.Channel) -> None:
        self.call = channel.stream_stream(ATTEND)(metadata=METADATA)

    async def say(self, *members: Member) -> None:
        await self.call.write(encode_attendance(members))

    async def told(self, right: Callable[[Assigned], bool]) -> Assigned:
        """Reads until the machine's first member is as it should be."""
        async with asyncio.timeout(WAIT_S):
            while True:
                body = await self.call.read()
                assert body is not aio.EOF, await self.call.details()
                (first, *_) = decode_assignment(body)
                if right(first):
                    return first

    async def registered(self, member: Member) -> Assigned:
        await self.say(member)
        return await self.told(lambda one: bool(one.uid))

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    if await self.call.read() is aio.EOF:
                        return await self.call.code(), await self.call.details()
                except aio.AioRpcError as error:
                    return error.code(), error.details() or ""


@asynccontextmanager
async def attending(agent: Agent) -> AsyncIterator[Attending]:
    async with agent.by_certificate() as channel:
        yield Attending(channel)


async def leave(agent: Agent) -> None:
    async with agent.by_certificate() as channel:
        await channel.unary_unary(LEAVE)(b"", metadata=METADATA, timeout=WAIT_S)
