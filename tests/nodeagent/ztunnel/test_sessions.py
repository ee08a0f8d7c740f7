"""A session over a real socket: what the proxy is sent, in which order, and what becomes of what it sends."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Self

import msgspec
import pytest

from meshapi.authorization import Action, Policy, PolicyScope
from meshapi.workload import TunnelProtocol, Workload, WorkloadUID
from nodeagent.snapshot.interest import Interest
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update
from nodeagent.subscriptions import Subscriptions
from nodeagent.ztunnel.protocol import (
    AnswerVerdict,
    AskVerdict,
    Closed,
    ConnectionEntry,
    Connections,
    CounterRow,
    Counters,
    Direction,
    ForgetIdentity,
    FromProxy,
    Held,
    HeldWorkload,
    Hello,
    ListConnections,
    ListenerKind,
    ProtocolError,
    ProxyStatus,
    RemoveWorkload,
    Report,
    SetIdentity,
    Settings,
    SetTrust,
    Shutdown,
    Synced,
    Via,
    Welcome,
)
from nodeagent.ztunnel.requests import NoAnswerError
from nodeagent.ztunnel.sessions import Sessions
from nodeagent.ztunnel.transport import Sender, Session, SessionClosed
from tests.nodeagent.waiting import until
from tests.nodeagent.ztunnel.peer import Peer

WEB = Workload(
    uid=WorkloadUID("web"), name="web", namespace="shop", addresses=(ip_address("10.0.0.1"),), tunnel_protocol=TunnelProtocol.HBONE
)
HELLO = Hello(1, "build", 42, "instance", 0.0)
TRUST = SetTrust({"cluster.local": "roots"})
ASK = AskVerdict(1, "web", "10.0.0.1:80", Via.PLAINTEXT, "10.0.0.2")
ENTRY = ConnectionEntry(7, "web", Direction.INBOUND, None, "10.0.0.2:1", "10.0.0.1:80", 0.0, Via.PLAINTEXT)
DENY = Policy("deny", "shop", PolicyScope.NAMESPACE, Action.DENY, rules=((),))


class Enrolment:
    def __init__(self) -> None:
        self.adopted: list[tuple[Held, list[tuple[int, int]]]] = []
        self.current: Sender | None = None
        self.ended = 0
        self.failing = False

    async def begin_session(
        self, session: Sender, _workloads: Sequence[HeldWorkload], held: Sequence[tuple[Held, tuple[int, ...]]]
    ) -> None:
        self.current = session
        if self.failing:
            raise SessionClosed("the session ended while the workloads were sent")
        self.adopted = [(message, [_identity(fd) for fd in fds]) for message, fds in held]

    def end_session(self, session: Sender) -> None:
        self.ended += 1
        if self.current is session:
            self.current = None


class Telemetry:
    def __init__(self) -> None:
        self.begun = 0
        self.taken: list[Counters | Closed] = []

    def begin_session(self) -> Self:
        self.begun += 1
        return self

    def on_counters(self, counters: Counters) -> None:
        self.taken.append(counters)

    def on_closed(self, closed: Closed) -> None:
        self.taken.append(closed)


class Source:
    def subscribe(self, keys: object) -> None: ...

    def unsubscribe(self, keys: object) -> None: ...


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class Scene:
    def __init__(self) -> None:
        self.store = SnapshotStore(Snapshot())
        self.store.apply(Update(workloads=(WEB,), policies_arrived=True))
        self.enrolment, self.telemetry = Enrolment(), Telemetry()
        self.sessions = Sessions(
            self.store, Subscriptions(Source(), self.store, interest=Interest(), connected=lambda: True), self.telemetry, Settings()
        )
        self.sessions.set_trust(TRUST)
        self.sessions.set_identity("spiffe://a", "chain", "key")
        self.end: Exception | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Peer]:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)  # noqa: FBT003 - the socket's own method
        with theirs:
            async with asyncio.TaskGroup() as tasks:
                session = Session(ours)
                task = tasks.create_task(self._handle(session))
                yield Peer(theirs)
                theirs.close()
                await task

    @asynccontextmanager
    async def synced(self, hello: Hello = HELLO) -> AsyncIterator[Peer]:
        async with self.connected() as peer:
            await peer.send(hello)
            while not isinstance(await peer.receive(), Synced):
                pass
            await until(lambda: hello.leaving or self.pid == hello.pid)
            yield peer

    @property
    def pid(self) -> int | None:
        """Of the proxy that serves."""
        state = self.sessions.state
        return state.pid if state else None

    async def _handle(self, session: Session) -> None:
        try:
            await self.sessions.handle(session, self.enrolment)
        except (SessionClosed, ProtocolError) as error:
            self.end = error
        finally:
            session.close()


async def test_a_session_begins_with_everything_in_order() -> None:
    scene = Scene()
    async with scene.connected() as peer:
        await peer.send(HELLO)
        received = [await peer.receive() for _ in range(4)]
        assert received == [Welcome(1, Settings()), TRUST, SetIdentity("spiffe://a", "chain", "key"), Synced()]
        await until(lambda: scene.sessions.state is not None)
        assert scene.sessions.state is not None
        assert scene.sessions.state.pid == 42
    assert scene.sessions.state is None
    assert (scene.enrolment.ended, scene.telemetry.begun) == (1, 1)
    assert isinstance(scene.end, SessionClosed)


async def test_held_descriptors_are_offered_to_enrolment_and_closed() -> None:
    scene = Scene()
    with socket.socket() as listener, open("/proc/self/ns/net", "rb") as netns:  # noqa: ASYNC230, PTH123 - opens at once
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts descriptors
        async with scene.connected() as peer:
            await peer.send(msgspec.structs.replace(HELLO, workloads=(HeldWorkload("web", 3),)))
            await peer.send(Held("web", 3, (ListenerKind.HBONE,)), (netns.fileno(), listener.fileno()))
            while not isinstance(await peer.receive(), Synced):
                pass
            expected = [_identity(netns.fileno()), _identity(listener.fileno())]
            assert scene.enrolment.adopted == [(Held("web", 3, (ListenerKind.HBONE,)), expected)]
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


async def test_questions_are_answered_and_answers_follow_the_policy() -> None:
    scene = Scene()
    async with scene.synced() as peer:
        await peer.send(ASK)
        first = await peer.receive()
        assert isinstance(first, AnswerVerdict)
        assert first.allow
        scene.store.apply(Update(policies=(DENY,)))
        second = await peer.receive()
        assert isinstance(second, AnswerVerdict)
        assert not second.allow


async def test_changes_of_identity_and_trust_go_out_at_once() -> None:
    scene = Scene()
    async with scene.synced() as peer:
        scene.sessions.set_identity("spiffe://b", "chain", "key")
        scene.sessions.forget_identity("spiffe://a")
        scene.sessions.forget_identity("spiffe://a")
        scene.sessions.set_trust(SetTrust({}))
        scene.sessions.shutdown(3.0)
        received = [await peer.receive() for _ in range(4)]
        assert received == [SetIdentity("spiffe://b", "chain", "key"), ForgetIdentity("spiffe://a"), SetTrust({}), Shutdown(3.0)]
    async with scene.connected() as peer:
        await peer.send(HELLO)
        assert [await peer.receive() for _ in range(4)][1:3] == [SetTrust({}), SetIdentity("spiffe://b", "chain", "key")]


async def test_reports_and_listings_are_asked_and_answered() -> None:
    scene = Scene()
    status = ProxyStatus(1, 1, 2, 3, 4, 5, 6, 7)
    async with scene.synced() as peer, asyncio.TaskGroup() as tasks:
        report = tasks.create_task(scene.sessions.report())
        assert await peer.receive() == Report(1)
        await peer.send(Counters((CounterRow(1),), request=1))
        await peer.send(status)
        assert await report == status
        assert scene.telemetry.taken == [Counters((CounterRow(1),), request=1)]
        listing = tasks.create_task(scene.sessions.connections())
        assert await peer.receive() == ListConnections(2)
        await peer.send(Connections(2, (ENTRY,), last=False))
        await peer.send(Connections(2, (ENTRY,), last=True))
        assert await listing == (ENTRY, ENTRY)
        await peer.send(Closed((ENTRY,)))
        await until(lambda: len(scene.telemetry.taken) == 2)


async def test_without_a_proxy_or_an_answer_there_is_an_error_in_words() -> None:
    scene = Scene()
    with pytest.raises(NoAnswerError, match="no proxy is connected"):
        await scene.sessions.report()
    async with scene.synced():
        with pytest.raises(NoAnswerError, match="in time"):
            await scene.sessions.report()


async def test_who_waits_when_the_session_ends_is_told() -> None:
    scene = Scene()
    failures: list[BaseException] = []

    async def ask() -> None:
        try:
            await scene.sessions.connections()
        except NoAnswerError as error:
            failures.append(error)

    async with asyncio.TaskGroup() as tasks, scene.synced() as peer:
        tasks.create_task(ask())
        assert isinstance(await peer.receive(), ListConnections)
    assert len(failures) == 1


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([ASK], "before Hello"),
        ([msgspec.structs.replace(HELLO, protocol=2)], "version 2"),
        ([msgspec.structs.replace(HELLO, workloads=(HeldWorkload("web", 1),)), ASK], "where Held was to come"),
        ([msgspec.structs.replace(HELLO, workloads=tuple(HeldWorkload(str(n), 1) for n in range(5000)))], "5000 workloads"),
        ([HELLO, HELLO], "after the beginning"),
    ],
)
async def test_what_is_not_of_the_protocol_ends_the_session(messages: list[FromProxy], words: str) -> None:
    scene = Scene()
    async with scene.connected() as peer:
        for message in messages:
            await peer.send(message)
        await until(lambda: scene.end is not None)
    assert isinstance(scene.end, ProtocolError)
    assert words in str(scene.end)


async def test_descriptors_that_do_not_belong_end_the_session() -> None:
    scene = Scene()
    async with scene.synced() as peer:
        await peer.send(ASK, (0,))
        await until(lambda: scene.end is not None)
    assert "descriptors with AskVerdict" in str(scene.end)


SUCCESSOR = msgspec.structs.replace(HELLO, pid=43, instance="successor")


async def test_a_successor_takes_the_place_and_the_former_one_drains_and_is_kept_true() -> None:
    scene = Scene()
    async with scene.synced() as former:
        await former.send(ASK)
        assert isinstance(await former.receive(), AnswerVerdict)
        async with scene.synced(SUCCESSOR) as successor:
            assert await former.receive() == Shutdown(30.0)
            assert scene.sessions.state is not None
            assert (scene.sessions.state.pid, scene.sessions.state.draining) == (43, (42,))
            scene.sessions.set_trust(SetTrust({}))
            assert scene.enrolment.current is not None
            scene.enrolment.current.send(RemoveWorkload("web", 0.0))
            for peer in (former, successor):
                assert [await peer.receive() for _ in range(2)] == [SetTrust({}), RemoveWorkload("web", 0.0)]
            scene.store.apply(Update(policies=(DENY,)))
            verdict = await former.receive()
            assert isinstance(verdict, AnswerVerdict)
            assert not verdict.allow, "a change of policy reaches what the former one carries"


async def test_connections_are_those_of_all_and_counters_are_taken_from_all() -> None:
    scene = Scene()
    async with scene.synced() as former, scene.synced(SUCCESSOR) as successor:
        assert isinstance(await former.receive(), Shutdown)
        listing = asyncio.ensure_future(scene.sessions.connections())
        for number, peer in enumerate((former, successor)):
            asked = await peer.receive()
            assert isinstance(asked, ListConnections)
            await peer.send(Connections(asked.request, (msgspec.structs.replace(ENTRY, id=number),), last=True))
        assert [entry.id for entry in await listing] == [1, 0]


async def test_one_that_drains_and_dials_again_takes_no_place() -> None:
    scene = Scene()
    async with scene.synced(SUCCESSOR), scene.synced(msgspec.structs.replace(HELLO, leaving=True)) as former:
        assert scene.pid == 43
        scene.sessions.set_trust(SetTrust({}))
        assert await former.receive() == SetTrust({})


async def test_a_successor_that_does_not_come_up_gives_the_place_back() -> None:
    scene = Scene()
    told = []
    async with scene.synced() as former:
        scene.enrolment.failing = True
        async with scene.connected() as stillborn:
            await stillborn.send(SUCCESSOR)
        with pytest.raises(EOFError):
            told.append(await former.receive())
        scene.enrolment.failing = False
        await until(lambda: scene.sessions.state is None)
    assert not told, "it need only dial again"
    async with scene.synced():
        assert scene.pid == 42


async def test_the_same_proxy_that_dials_again_ends_its_former_session() -> None:
    scene = Scene()
    async with scene.synced() as former, scene.synced():
        with pytest.raises(EOFError):
            await former.receive()
        assert scene.pid == 42
