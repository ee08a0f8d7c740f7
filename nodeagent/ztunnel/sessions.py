"""The proxies' sessions: what is sent when one begins, and where each of its messages goes.

One proxy serves. Another that dials and is told everything takes its place: the former one drains, and stays connected until it is done,
since verdicts, trust and removals concern what it still carries.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
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
    RemoveWorkload,
    SetIdentity,
    Settings,
    SetTrust,
    Shutdown,
    Synced,
    ToProxy,
    Welcome,
)
from nodeagent.ztunnel.requests import NoAnswerError, Requests
from nodeagent.ztunnel.transport import Sender, Session, SessionClosed

log = logging.getLogger(__name__)

HELLO_DEADLINE_S: Final = 10.0
MAX_WORKLOADS: Final = 4096
T = TypeVar("T")


class Enrolment(Protocol):
    """Sends the workloads of this node to a session."""

    async def begin_session(
        self, session: Sender, workloads: Sequence[HeldWorkload], held: Sequence[tuple[Held, tuple[int, ...]]]
    ) -> None: ...

    def end_session(self, session: Sender) -> None: ...


class Counting(Protocol):
    """Takes what the proxy of one session counted: series numbers are the session's own."""

    def on_counters(self, counters: Counters) -> None: ...

    def on_closed(self, closed: Closed) -> None: ...


class Telemetry(Protocol):
    """Takes what proxies counted."""

    def begin_session(self) -> Counting: ...


@dataclass(frozen=True, slots=True)
class SessionState:
    """For status, of the proxy that serves. `since_s` is Unix time; `draining` are the processes of former ones."""

    since_s: float
    pid: int
    build: str
    held: int
    waiting: int
    draining: tuple[int, ...] = ()


@dataclass(slots=True)
class _Live:
    session: Session
    hello: Hello
    since_s: float
    requests: Requests
    answering: Answering
    counting: Counting
    leaving: bool
    told: bool = False
    """It has been welcomed: what changes is sent to it from then on."""
    synced: bool = False


class Sessions:
    """Identities and trust as they are now, for each session that begins and for those that are there."""

    def __init__(
        self,
        store: SnapshotStore,
        subscriptions: Subscriptions,
        telemetry: Telemetry,
        settings: Settings,
        outside: Outside | None = None,
        *,
        succession_drain_s: float = 30.0,
    ) -> None:
        """`succession_drain_s`: what the connections of a proxy have to finish when another takes its place."""
        self._store = store
        self._subscriptions = subscriptions
        self._telemetry = telemetry
        self._settings = settings
        self._outside = outside
        self._identities: dict[str, SetIdentity] = {}
        self._trust: SetTrust | None = None
        self._succession_drain_s = succession_drain_s
        self._open: dict[str, _Live] = {}
        """By the instance of the proxy, the latest last."""

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
        """Asks every proxy to drain and exit."""
        self._tell(Shutdown(drain_s))

    def remove_from_leaving(self, message: RemoveWorkload) -> None:
        """Tells those that drain what the one that serves is told by enrolment."""
        for live in self._leaving():
            _send(live.session, message)

    # ---- what the agent asks

    @property
    def state(self) -> SessionState | None:
        """None while no proxy serves."""
        live = self._serving()
        if live is None:
            return None
        draining = tuple(former.hello.pid for former in self._leaving())
        return SessionState(live.since_s, live.hello.pid, live.hello.build, live.answering.held, live.answering.waiting, draining)

    async def report(self) -> ProxyStatus:
        """Gauges of the proxy that serves, now, when the counters of all have been taken in; raises NoAnswerError."""
        serving = self._requests()
        await asyncio.gather(*(_or_nothing(live.requests.report()) for live in self._leaving()))
        return await serving.report()

    async def connections(self) -> tuple[ConnectionEntry, ...]:
        """The open connections of all proxies; raises NoAnswerError."""
        serving = self._requests()
        former = await asyncio.gather(*(_or_nothing(live.requests.connections()) for live in self._leaving()))
        return (*await serving.connections(), *(entry for entries in former for entry in entries or ()))

    # ---- one session

    async def handle(self, session: Session, enrolment: Enrolment) -> None:
        """Serves a session until it ends; raises SessionClosed or ProtocolError."""
        hello = await _in_time(_hello(session))
        log.info("proxy session: process %d, build %s, instance %s", hello.pid, hello.build, hello.instance)
        if former := self._open.pop(hello.instance, None):
            former.session.close("the proxy dialled again")
        with Answering(self._store, self._subscriptions, session.send, self._settings, outside=self._outside) as answering:
            requests, counting = Requests(session.send), self._telemetry.begin_session()
            live = _Live(session, hello, time.time(), requests, answering, counting, leaving=hello.leaving)
            self._open[hello.instance] = live
            outlet = _Outlet(self, session)
            try:
                await self._begin(live, enrolment, outlet)
                await self._converse(live)
            finally:
                if self._open.get(hello.instance) is live:
                    del self._open[hello.instance]
                enrolment.end_session(outlet)
                live.requests.close()
                if live.told and not live.synced and not live.leaving:
                    self._recall()
                live.told = False

    async def _begin(self, live: _Live, enrolment: Enrolment, outlet: "_Outlet") -> None:
        """Sends the whole state. From the first word on changes go to this session, so that none falls between."""
        session = live.session
        held: list[tuple[Held, tuple[int, ...]]] = []
        try:
            for _ in live.hello.workloads:
                held.append(await _in_time(_held(session)))  # noqa: PERF401 - what came before a failure must be closed
            session.send(Welcome(VERSION, self._settings))
            live.told = True
            if self._trust is not None:
                session.send(self._trust)
            for identity in self._identities.values():
                session.send(identity)
            if not live.leaving:
                await enrolment.begin_session(outlet, live.hello.workloads, held)
        finally:
            for _, fds in held:
                _close(fds)
        session.send(Synced())
        live.synced = True
        if not live.leaving:
            self._supersede(live)

    def _supersede(self, live: _Live) -> None:
        """The one that serves now accepts from the same sockets: nothing waits for the former ones, which need only finish."""
        for former in self._open.values():
            if former is not live and former.synced and not former.leaving:
                former.leaving = True
                log.info(
                    "proxy: process %d takes the place of %d, which has %g s to finish what it carries",
                    *(live.hello.pid, former.hello.pid, self._succession_drain_s),
                )
                _send(former.session, Shutdown(self._succession_drain_s))

    def _recall(self) -> None:
        """One that ended before it served had taken the place with enrolment already: the former one dials again, and has it back."""
        if serving := self._serving():
            serving.session.close("a successor did not come up")

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
                live.counting.on_counters(message)
            case Closed():
                live.counting.on_closed(message)
            case ProxyStatus():
                live.requests.on_status(message)
            case Connections():
                live.requests.on_connections(message)
            case Hello() | Held():
                raise ProtocolError(f"{type(message).__name__} after the beginning")
            case _:
                assert_never(message)

    def _tell(self, message: ToProxy) -> None:
        for live in self._open.values():
            if live.told:
                _send(live.session, message)

    def _serving(self) -> _Live | None:
        return next((live for live in reversed(self._open.values()) if live.synced and not live.leaving), None)

    def _leaving(self) -> Iterator[_Live]:
        return (live for live in list(self._open.values()) if live.synced and live.leaving)

    def _requests(self) -> Requests:
        live = self._serving()
        if live is None:
            raise NoAnswerError("no proxy is connected")
        return live.requests


class _Outlet:
    """A session as enrolment has it: what closes connections of a workload is told to those that drain, too."""

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self._sessions = sessions
        self._session = session

    def send(self, message: ToProxy, fds: tuple[int, ...] = ()) -> None:
        """Raises SessionClosed."""
        if isinstance(message, RemoveWorkload):
            self._sessions.remove_from_leaving(message)
        self._session.send(message, fds)


def _send(session: Session, message: ToProxy) -> None:
    with suppress(SessionClosed):
        session.send(message)


async def _or_nothing(asking: Awaitable[T]) -> T | None:
    """Of one that is on its way out: its end is no failure."""
    with suppress(NoAnswerError, SessionClosed):
        return await asking
    return None


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
