"""The agent joins once with a token, keeps its certificate, and renews it with itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from meshapi.spiffe import AgentIdentity
from nodeagent.identity.agent import AgentCredential
from nodeagent.identity.schedule import State
from nodeagent.identity.trust import Trust
from tests.nodeagent.identity.fakes import FakeAuthority, FakeStore, Time
from tests.nodeagent.identity.pki import DAY_S
from tests.nodeagent.waiting import until

AGENT = AgentIdentity("cluster.local", "n1")


class Node:
    def __init__(self, store: FakeStore | None = None, time: Time | None = None, joining: FakeAuthority | None = None) -> None:
        self.time = time or Time()
        self.joining = joining or FakeAuthority(self.time)
        self.renewing = FakeAuthority(self.time, self.joining.root)
        self.store = store or FakeStore()
        self.rotations = 0
        self.credential = AgentCredential(
            AGENT,
            self.store,
            Trust("cluster.local", [self.joining.root.certificate]),
            joining=self.joining,
            renewing=self.renewing,
            on_rotated=self._rotated,
            clock=self.time.clock(),
            chance=lambda: 0.0,
        )

    def _rotated(self) -> None:
        self.rotations += 1


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(node.credential.run())
        try:
            yield node
        finally:
            task.cancel()


async def test_joining_gives_a_certificate_that_is_kept() -> None:
    async with running(Node()) as node:
        with pytest.raises(ValueError, match="no certificate yet"):
            node.credential.current()
        async with asyncio.timeout(10):
            await node.credential.wait()
        assert node.store.records.keys() == {str(AGENT)}
        assert node.credential.current().identity == str(AGENT)
        assert (node.joining.asked, node.renewing.asked, node.rotations) == ([str(AGENT)], [], 1)


async def test_after_a_restart_the_kept_certificate_is_used_and_no_token() -> None:
    async with running(Node()) as before:
        await until(lambda: before.rotations)
    async with running(Node(before.store, before.time, before.joining)) as node:
        await until(lambda: node.rotations)
        assert node.joining.asked == [str(AGENT)]
        assert node.renewing.asked == []


async def test_at_half_life_it_is_renewed_with_itself() -> None:
    async with running(Node()) as before:
        await until(lambda: before.rotations)
    before.time.pass_s(DAY_S * 0.6)
    async with running(Node(before.store, before.time, before.joining)) as node:
        await until(lambda: node.rotations == 2)
        assert node.renewing.asked == [str(AGENT)]
        assert node.joining.asked == [str(AGENT)]


async def test_a_clock_that_was_wrong_at_boot_costs_no_token() -> None:
    async with running(Node()) as before:
        await until(lambda: before.rotations)
    before.joining.error = "UNAUTHENTICATED: denied"
    node = Node(before.store, Time(0.0), before.joining)
    async with running(node):
        await until(lambda: node.credential.state().error)
        node.time.wall_s = before.time.wall_s
        await until(lambda: node.rotations)
        assert node.credential.state().state is State.VALID


async def test_an_expired_one_needs_a_token_again() -> None:
    async with running(Node()) as before:
        await until(lambda: before.rotations)
    before.time.pass_s(DAY_S * 2)
    async with running(Node(before.store, before.time, before.joining)) as node:
        await until(lambda: node.rotations)
        assert len(node.joining.asked) == 2


async def test_a_token_that_is_spent_is_said() -> None:
    node = Node()
    node.joining.error = "UNAUTHENTICATED: denied"
    async with running(node):
        await until(lambda: node.credential.state().error)
        assert node.credential.state().state is State.WAITING
        with pytest.raises(ValueError, match="UNAUTHENTICATED: denied"):
            node.credential.current()


async def test_a_certificate_that_cannot_be_kept_is_not_used() -> None:
    node = Node(FakeStore(error=OSError(28, "No space left on device")))
    async with running(node):
        await until(lambda: node.credential.state().error)
        assert "No space left" in (node.credential.state().error or "")
        assert node.rotations == 0
