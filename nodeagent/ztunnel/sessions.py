"""The proxy's sessions: what is sent when one begins, and where each of its messages goes."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, assert_never

from nodeagent.snapshot.store import SnapshotStore
from nodeagent.subscriptions import Subscriptions
from nodeagent.ztunnel.answering import Answering, Outside
from nodeagent.ztunnel.protocol import (
    VERSION,
    AskRoute,
    AskVerdict,
    Closed,
    ConnectionEntry,
    Connections,
    Counters,
    ForgetIdentity,
    FromProxy,
    Held,
    HeldWorkload,
    Hello,
    ProtocolError,
    ProxyStatus,
    Release,
    SetIdentity,
    Settings,
    SetTrust,
    Shutdown,
    Synced,
    ToProxy,
    Welcome,
)
from nodeagent.ztunnel.requests import NoAnswerError, Requests
from nodeagent.ztunnel.transport import Session, SessionClosed

log = logging.getLogger(__name__)

HELLO_DEADLINE_S: Final = 10.0
MAX_WORKLOADS: Final = 4096
T = TypeVar("T")


class Enrolment(Protocol):
    """Sends the workloads of this node to a session."""

    async def begin_session(
        self, session: Session, workloads: Sequence[HeldWorkload], held: Sequence[tuple[Held, tuple[int, ...]]]
    ) -> None: ...

    def end_session(self, session: Session) -> None: ...


class Telemetry(Protocol):
    """Takes what the proxy counted; series numbers are of the session that `begin_session` began."""

    def begin_session(self) -> None: ...

    def on_counters(self, counters: Counters) -> None: ...

    def on_closed(self, closed: Closed) -> None: ...


@dataclass(frozen=True, slots=True)
class SessionState:
    """For status. `since_s` is Unix time."""

    since_s: float
    pid: int
    build: str
    held: int
    waiting: int


@dataclass(slots=True)
class _Live:
    session: Session
    hello: Hello
    since_s: float
    requests: Requests
    answering: Answering


class Sessions:
    """Identities and trust as they are now, for each session that begins and for the one that is there."""

    def __init__(
        self, store: SnapshotStore, subscriptions: Subscriptions, telemetry: Telemetry, settings: Settings, outside: Outside | None = None
    ) -> None:
        self._store = store
        self._subscriptions = subscriptions
        self._telemetry = telemetry
        self._settings = settings
        self._outside = outside
        self._identities: dict[str, SetIdentity] = {}
        self._trust: SetTrust | None = None
        self._live: _Live | None = None
        self._sending: Session | None = None

    # ---- what the agent tells

    def set_identity(self, identity: str, chain_pem: str, key_pem: str) -> None:
        """A certificate is there, or a newer one."""
        message = SetIdentity(identity, chain_pem, key_pem)
        self._identities[identity] = message
        self._tell(message)

    def forget_identity(self, identity: str) -> None:
        """Nobody here has this identity any more."""
        if self._identities.pop(identity, None) is not None:
            self._tell(ForgetIdentity(identity))

    def set_trust(self, trust: SetTrust) -> None:
        """Roots and revocations, as a whole."""
        self._trust = trust
        self._tell(trust)

    def has_identity(self, identity: str) -> bool:
        return identity in self._identities

    def shutdown(self, drain_s: float) -> None:
        """Asks the proxy to drain and exit."""
        self._tell(Shutdown(drain_s))

    # ---- what the agent asks

    @property
    def state(self) -> SessionState | None:
        """None while no proxy is connected."""
        live = self._live
        if live is None:
            return None
        return SessionState(live.since_s, live.hello.pid, live.hello.build, live.answering.held, live.answering.waiting)

    async def report(self) -> ProxyStatus:
        """Counters and gauges of now; raises NoAnswerError."""
        return await self._requests().report()

    async def connections(self) -> tuple[ConnectionEntry, ...]:
        """The open connections; raises NoAnswerError."""
        return await self._requests().connections()

    # ---- one session

    async def handle(self, session: Session, enrolment: Enrolment) -> None:
        """Serves a session until it ends; raises SessionClosed or ProtocolError."""
        hello = await _in_time(_hello(session))
        log.info("proxy session: process %d, build %s, instance %s", hello.pid, hello.build, hello.instance)
        self._telemetry.begin_session()
        with Answering(self._store, self._subscriptions, session.send, self._settings, outside=self._outside) as answering:
            live = _Live(session, hello, time.time(), Requests(session.send), answering)
            try:
                await self._begin(live, enrolment)
                await self._converse(live)
            finally:
                enrolment.end_session(session)
                live.requests.close()
                if self._live is live:
                    self._live = None
                if self._sending is session:
                    self._sending = None

    async def _begin(self, live: _Live, enrolment: Enrolment) -> None:
        """Sends the whole state. From the first word on changes go to this session, so that none falls between."""
        session = live.session
        held: list[tuple[Held, tuple[int, ...]]] = []
        try:
            for _ in live.hello.workloads:
                held.append(await _in_time(_held(session)))  # noqa: PERF401 - what came before a failure must be closed
            session.send(Welcome(VERSION, self._settings))
            self._sending = session
            if self._trust is not None:
                session.send(self._trust)
            for identity in self._identities.values():
                session.send(identity)
            await enrolment.begin_session(session, live.hello.workloads, held)
        finally:
            for _, fds in held:
                _close(fds)
        session.send(Synced())
        self._live = live

    async def _converse(self, live: _Live) -> None:
        end: list[Exception] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(live.answering.run(), name="proxy session: answers")
                tasks.create_task(self._receive(live), name="proxy session: questions")
        except* (SessionClosed, ProtocolError) as group:
            end += group.exceptions
        raise end[0]

    async def _receive(self, live: _Live) -> None:
        while True:
            message, fds = await live.session.receive()
            if fds:
                _close(fds)
                raise ProtocolError(f"descriptors with {type(message).__name__}")
            self._take(live, message)

    def _take(self, live: _Live, message: FromProxy) -> None:
        match message:
            case AskRoute() | AskVerdict():
                live.answering.ask(message)
            case Release():
                live.answering.release(message)
            case Counters():
                self._telemetry.on_counters(message)
            case Closed():
                self._telemetry.on_closed(message)
            case ProxyStatus():
                live.requests.on_status(message)
            case Connections():
                live.requests.on_connections(message)
            case Hello() | Held():
                raise ProtocolError(f"{type(message).__name__} after the beginning")
            case _:
                assert_never(message)

    def _tell(self, message: ToProxy) -> None:
        if self._sending is not None:
            with suppress(SessionClosed):
                self._sending.send(message)

    def _requests(self) -> Requests:
        if self._live is None:
            raise NoAnswerError("no proxy is connected")
        return self._live.requests


async def _in_time(receiving: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(HELLO_DEADLINE_S):
            return await receiving
    except TimeoutError as error:
        raise SessionClosed("the proxy did not say hello in time") from error


async def _hello(session: Session) -> Hello:
    message, fds = await session.receive()
    _close(fds)
    if not isinstance(message, Hello):
        raise ProtocolError(f"{type(message).__name__} before Hello")
    if message.protocol != VERSION:
        raise ProtocolError(f"the proxy speaks version {message.protocol} of the protocol, this agent {VERSION}")
    if len(message.workloads) > MAX_WORKLOADS:
        raise ProtocolError(f"{len(message.workloads)} workloads")
    return message


async def _held(session: Session) -> tuple[Held, tuple[int, ...]]:
    message, fds = await session.receive()
    if not isinstance(message, Held):
        _close(fds)
        raise ProtocolError(f"{type(message).__name__} where Held was to come")
    return message, fds


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
