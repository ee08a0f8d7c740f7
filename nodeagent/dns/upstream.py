"""One resolver of one workload, asked from the workload's own network: answers that were not asked for count for nothing.

Who wants to answer in a resolver's place must know the port (one of a few that change), the number, and which letters of the name were
written in upper case (draft-vixie-dnsext-dns0x20), and send from the resolver's own address and port: the kernel hands on nothing else.
"""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from nodeagent.dns.sockets import PORT
from nodeagent.dns.wire import MAX_MESSAGE_BYTES, MalformedError, Query, Response, in_case, read_response, write_query

TRY_S: Final = (1.0, 2.5)
"""How long each try waits. Clients ask again, or another resolver, after about five seconds."""
TCP_S: Final = 5.0
MAX_OPEN: Final = 128
"""Questions that wait for one resolver: one that is slow must not hold more."""
POOL_USES: Final = 1000
POOL_AGE_S: Final = 1.0
"""Ports change no sooner, so that nobody makes us open sockets without end."""
STRANGE_USES: Final = 100
"""What an answer counts for that was not asked for, or comes too late."""
SILENT: Final = 3
"""After so many questions in a row without an answer a resolver may be gone: clients then hear soon that it failed, and turn to another."""
DOUBTFUL_TRY_S: Final = 0.5
_RETIRED_S: Final = 5.0

Open = Callable[[], Awaitable[tuple[socket.socket, ...]]]
OpenStream = Callable[[], Awaitable[socket.socket]]


class NoAnswerError(Exception):
    """The resolver gives none; the text says why."""


@dataclass(slots=True)
class _Waiting:
    question: bytes
    answer: "asyncio.Future[tuple[bytes, Response]]"


class _Pool:
    """A few connected sockets, and what was asked by each of them."""

    def __init__(self, sockets: tuple[socket.socket, ...], on_other_case: Callable[[], None]) -> None:
        self._sockets = sockets
        self._on_other_case = on_other_case
        self._waiting: tuple[dict[int, _Waiting], ...] = tuple({} for _ in sockets)
        self.uses = 0
        loop = asyncio.get_running_loop()
        self._made_s = loop.time()
        for index, one in enumerate(sockets):
            loop.add_reader(one.fileno(), self._read, index)

    @property
    def open(self) -> int:
        return sum(map(len, self._waiting))

    @property
    def worn(self) -> bool:
        """Other ports are to be chosen."""
        return self.uses >= POOL_USES and asyncio.get_running_loop().time() - self._made_s >= POOL_AGE_S

    async def ask(self, query: Query, deadline_s: float, *, fold: bool) -> tuple[bytes, Response]:
        """Raises TimeoutError, or OSError if the resolver is known not to be there."""
        index = secrets.randbelow(len(self._sockets))
        waiting = self._waiting[index]
        number = secrets.randbits(16)
        while number in waiting:
            number = secrets.randbits(16)
        question = query.question if fold else in_case(query.question, secrets.randbits(256))
        one = _Waiting(question, asyncio.get_running_loop().create_future())
        waiting[number] = one
        self.uses += 1
        try:
            self._sockets[index].send(write_query(query, number, question))
            async with asyncio.timeout(deadline_s):
                return await one.answer
        finally:
            waiting.pop(number, None)

    def close(self) -> None:
        """Safe to repeat."""
        loop = asyncio.get_running_loop()
        for one, waiting in zip(self._sockets, self._waiting, strict=True):
            if one.fileno() >= 0:
                loop.remove_reader(one.fileno())
                one.close()
            _fail(waiting, OSError("closed"))

    def _read(self, index: int) -> None:
        waiting = self._waiting[index]
        try:
            packet = self._sockets[index].recv(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            _fail(waiting, error)
            return
        one = waiting.get(int.from_bytes(packet[:2], "big"))
        if one is None or one.answer.done() or not self._take(one, packet):
            # Somebody may be guessing: other ports are chosen the sooner.
            self.uses += STRANGE_USES

    def _take(self, one: _Waiting, packet: bytes) -> bool:
        """Whether the packet answers what was asked."""
        try:
            response = read_response(packet)
        except MalformedError:
            return False
        if response.question == one.question:
            one.answer.set_result((packet, response))
            return True
        if response.question.lower() == one.question.lower():
            self._on_other_case()
        return False


class Upstream:
    """See the module. Owns its sockets; `open_pool` and `open_stream` make more of them in the workload's namespace."""

    def __init__(self, server: str, open_pool: Open, open_stream: OpenStream) -> None:
        self._server = server
        self._open_pool = open_pool
        self._open_stream = open_stream
        self._pool: _Pool | None = None
        self._retired: list[_Pool] = []
        self._making = asyncio.Lock()
        self._silent = 0
        self._folds = False
        """It answers in letters of its own choice."""

    async def ask(self, query: Query) -> tuple[bytes, Response]:
        """By UDP; raises NoAnswerError."""
        # One that says nothing to some names may be slow for these alone: it is asked on, but nobody waits long.
        for deadline_s in TRY_S if self._silent < SILENT else (DOUBTFUL_TRY_S,):
            try:
                pool = await self._current()
                if pool.open >= MAX_OPEN:
                    raise NoAnswerError("too many questions wait for it")
                answer = await pool.ask(query, deadline_s, fold=self._folds)
            except TimeoutError:
                continue
            except OSError as error:
                self._silent += 1
                raise NoAnswerError(str(error)) from error
            self._silent = 0
            return answer
        self._silent += 1
        raise NoAnswerError("it does not answer")

    async def ask_by_tcp(self, query: Query) -> tuple[bytes, Response]:
        """Raises NoAnswerError."""
        number = secrets.randbits(16)
        question = in_case(query.question, 0)
        try:
            async with asyncio.timeout(TCP_S):
                packet = await self._talk(write_query(query, number, question))
            response = read_response(packet)
        except (TimeoutError, OSError, EOFError, MalformedError) as error:
            raise NoAnswerError(str(error) or "it does not answer") from error
        if response.id != number or response.question.lower() != question.lower():
            raise NoAnswerError("it answers something else")
        return packet, response

    def close(self) -> None:
        for pool in (*self._retired, *([self._pool] if self._pool else ())):
            pool.close()
        self._pool, self._retired = None, []

    async def _talk(self, asked: bytes) -> bytes:
        made = await self._open_stream()
        try:
            # The stream takes the socket over as soon as it is connected.
            await asyncio.get_running_loop().sock_connect(made, (self._server, PORT))
            reader, writer = await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise
        try:
            writer.write(len(asked).to_bytes(2, "big") + asked)
            await writer.drain()
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()

    async def _current(self) -> _Pool:
        async with self._making:
            former = self._pool
            if former is not None and not former.worn:
                return former
            self._pool = _Pool(await self._open_pool(), self._fold)
        if former is not None:
            self._retired.append(former)
            asyncio.get_running_loop().call_later(_RETIRED_S, self._retire)
        return self._pool

    def _retire(self) -> None:
        """The oldest has had its time to hear the last answers."""
        if self._retired:
            self._retired.pop(0).close()

    def _fold(self) -> None:
        self._folds = True


def _fail(waiting: dict[int, _Waiting], error: OSError) -> None:
    for one in waiting.values():
        if not one.answer.done():
            one.answer.set_exception(error)
