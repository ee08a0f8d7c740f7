"""An agent that is all test: it speaks the decision protocol with a real proxy and answers what the test tells it to."""

import array
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nodeagent.ztunnel.protocol import (
    AnswerRoute,
    AnswerVerdict,
    AskRoute,
    AskVerdict,
    Closed,
    ConnectionEntry,
    Connections,
    CounterRow,
    Counters,
    FromProxy,
    Held,
    Hello,
    Holds,
    ListConnections,
    ProxyStatus,
    Release,
    Report,
    Route,
    SetIdentity,
    Settings,
    SetTrust,
    SetWorkload,
    Synced,
    ToProxy,
    Welcome,
    decode_from_proxy,
    encode,
)


@dataclass(frozen=True)
class Judgement:
    allow: bool = True
    holds: Holds = Holds.ANY_SOURCE
    reason: str = "as the test says"
    policy: str | None = None


@dataclass
class Script:
    """What the agent knows and how it answers; survives the agent."""

    workloads: list[tuple[SetWorkload, list[int]]] = field(default_factory=list)
    identities: list[SetIdentity] = field(default_factory=list)
    trust: SetTrust = field(default_factory=lambda: SetTrust(roots={}))
    settings: Settings = field(default_factory=Settings)
    route: Callable[[AskRoute], Route | None] = lambda _: None
    verdict: Callable[[AskVerdict], Judgement | None] = lambda _: Judgement()


class StubAgent:
    """One session after another, served by a thread. What came is kept in lists that tests poll."""

    def __init__(self, path: Path, script: Script) -> None:
        self.script = script
        self.hellos: list[Hello] = []
        self.held: list[tuple[Held, list[int]]] = []
        self.asked: dict[int, AskRoute | AskVerdict] = {}
        self.released: set[int] = set()
        self.rows: list[CounterRow] = []
        self.closed: list[ConnectionEntry] = []
        self.open: dict[int, list[ConnectionEntry]] = {}
        self.complete: set[int] = set()
        self.status: dict[int, ProxyStatus] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen()
        self._session: socket.socket | None = None
        self._lock = threading.RLock()
        self._requests = 0
        self._thread = threading.Thread(target=self._serve, name="stub agent", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Goes away as a crash does: at once, without a word."""
        for end in (self._listener, self._session):
            if end is not None:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._thread.join(5)

    def send(self, message: ToProxy, descriptors: list[int] | None = None) -> None:
        body = encode(message)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with self._lock:
            assert self._session is not None, "no proxy is here"
            data = struct.pack("!I", len(body)) + body
            sent = self._session.sendmsg([data], control)
            self._session.sendall(data[sent:])

    def report(self) -> ProxyStatus:
        request = self._next_request()
        self.send(Report(request=request))
        until(lambda: request in self.status)
        return self.status[request]

    def connections(self) -> list[ConnectionEntry]:
        request = self._next_request()
        self.send(ListConnections(request=request))
        until(lambda: request in self.complete)
        return self.open[request]

    def answer_again(self) -> None:
        """Says of everything that is held what the script says now."""
        for id_ in list(self.asked):
            if id_ not in self.released:
                self._answer(self.asked[id_])

    def questions(self, kind: type[AskRoute] | type[AskVerdict]) -> list[AskRoute | AskVerdict]:
        return [question for question in self.asked.values() if isinstance(question, kind)]

    def _next_request(self) -> int:
        self._requests += 1
        return self._requests

    def _serve(self) -> None:
        while True:
            try:
                session, _ = self._listener.accept()
            except OSError:
                return
            self._session = session
            try:
                while True:
                    self._handle(*_receive(session))
            except (OSError, EOFError, AssertionError):
                session.close()

    def _handle(self, message: FromProxy, descriptors: list[int]) -> None:
        match message:
            case Hello():
                self.hellos.append(message)
                self._greet(message)
            case Held():
                self.held.append((message, descriptors))
            case AskRoute() | AskVerdict():
                self.asked[message.id] = message
                self._answer(message)
            case Release(ids=ids):
                self.released.update(ids)
            case Counters(rows=rows):
                self.rows.extend(rows)
            case Closed(entries=entries):
                self.closed.extend(entries)
            case Connections(request=request, open=entries, last=last):
                self.open.setdefault(request, []).extend(entries)
                if last:
                    self.complete.add(request)
            case ProxyStatus(request=request):
                self.status[request] = message

    def _greet(self, hello: Hello) -> None:
        held = {(workload.uid, workload.generation) for workload in hello.workloads}
        self.send(Welcome(protocol=1, settings=self.script.settings))
        self.send(self.script.trust)
        for identity in self.script.identities:
            self.send(identity)
        for workload, descriptors in self.script.workloads:
            self.send(workload, [] if (workload.uid, workload.generation) in held else descriptors)
        self.send(Synced())

    def _answer(self, question: AskRoute | AskVerdict) -> None:
        match question:
            case AskRoute():
                route = self.script.route(question)
                if route is not None:
                    self.send(AnswerRoute(id=question.id, route=route))
            case AskVerdict():
                judged = self.script.verdict(question)
                if judged is not None:
                    told = attributes(verdict=question.destination, peer=question.peer)
                    answer = AnswerVerdict(
                        id=question.id,
                        allow=judged.allow,
                        holds=judged.holds,
                        reason=judged.reason,
                        attributes=told,
                        policy=judged.policy,
                    )
                    self.send(answer)


def attributes(**named: object) -> msgspec.Raw:
    """What the proxy gives back unread."""
    return msgspec.Raw(msgspec.json.encode(named))


def _receive(session: socket.socket) -> tuple[FromProxy, list[int]]:
    data, ancillary, _, _ = session.recvmsg(4, socket.CMSG_SPACE(16 * 4))
    descriptors = array.array("i")
    for _, _, payload in ancillary:
        descriptors.frombytes(payload[: len(payload) - len(payload) % 4])
    length = struct.unpack("!I", data + _exactly(session, 4 - len(data)))[0]
    return decode_from_proxy(_exactly(session, length)), list(descriptors)


def _exactly(session: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = session.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return parts


def until(condition: Callable[[], bool], *, deadline_s: float = 5.0) -> None:
    """Returns when `condition` holds; fails the test if it does not in time."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.005)
