"""Serves the questions of one workload: what is known is answered at once, the rest waits, and nothing that waits holds up another."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from nodeagent.dns import aliases, lookup
from nodeagent.dns.counts import By, Counts
from nodeagent.dns.directory import Directory
from nodeagent.dns.endpoints import HeadlessEndpoints
from nodeagent.dns.forwarding import Forwarder, failure
from nodeagent.dns.lookup import TTL_S, NeedsEndpoints, NeedsResolver
from nodeagent.dns.rate import Rate
from nodeagent.dns.sockets import Asked, is_own
from nodeagent.dns.wire import MAX_MESSAGE_BYTES, MAX_UDP_BYTES, Answer, Query, read_query, write_answer
from nodeagent.linux import datagrams
from nodeagent.linux.datagrams import Address
from nodeagent.runtime.base import LocalWorkload

log = logging.getLogger(__name__)

BATCH: Final = 16
"""Datagrams of one workload that are read in one turn of the loop; what the proxy asks comes between the turns."""
QUESTIONS_PER_S: Final = 2000.0
BURST: Final = 500.0
REST_S: Final = 0.05
"""How long a workload's questions stay with the kernel that asks too many; what it has no room for is lost, and asked again."""
MAX_WAITING: Final = 512
MAX_STREAMS: Final = 32
MAX_PIPELINED: Final = 16
IDLE_S: Final = 10.0
SILENT_S: Final = 60.0
WRITE_S: Final = 5.0


class Client(NamedTuple):
    """Who asks by UDP. `answering`: by which socket it is answered, if not in the resolver's name."""

    address: Address
    answering: socket.socket | None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What all workloads' answers come from."""

    directory: Directory
    endpoints: HeadlessEndpoints


class WorkloadDNS:
    """Owns `asked` and the forwarder; everything of it runs in the tasks of `run`."""

    def __init__(
        self,
        workload: LocalWorkload,
        asked: Asked,
        knowledge: Knowledge,
        forwarder: Forwarder,
        counts: Counts,
        clock: Callable[[], float],
    ) -> None:
        self._name = workload.uid
        self._namespace = workload.namespace
        self._asked = asked
        self._knowledge = knowledge
        self._forwarder = forwarder
        self._counts = counts
        self._clock = clock
        self._rate = Rate(QUESTIONS_PER_S, BURST)
        self._waiting = 0
        self._streams = 0
        self._ending = False
        self._silent_until_s = 0.0
        self.problem = ""
        """Why the last question could not be answered for a fault of ours, in words; empty if it could."""

    async def run(self) -> None:
        """Until it is cancelled; closes everything then."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    for by_udp in self._asked.by_udp:
                        loop.add_reader(by_udp.fileno(), self._read, by_udp, tasks)
                    for by_tcp in self._asked.by_tcp:
                        tasks.create_task(self._accept(by_tcp, tasks), name=f"dns of {self._name}: tcp")
                    await asyncio.Event().wait()
                finally:
                    # While the tasks end there must come no new ones.
                    self._ending = True
                    for by_udp in self._asked.by_udp:
                        loop.remove_reader(by_udp.fileno())
        finally:
            self._asked.close()
            self._forwarder.close()

    # ---- UDP

    def _read(self, by_udp: socket.socket, tasks: asyncio.TaskGroup) -> None:
        for _ in range(BATCH):
            if not self._rate.take(self._clock()):
                self._rest(by_udp, tasks)
                return
            try:
                datagram = datagrams.receive(by_udp, MAX_UDP_BYTES)
            except OSError:  # nothing more is there; what else there is to say of a socket that only listens, concerns no question
                return
            if datagram is not None and (server := self._asked.meant(datagram)) is not None:
                # What was redirected is turned back on its way from where it came to.
                answering = by_udp if is_own(datagram.meant[0]) else None
                self._take(datagram.body, server, Client(datagram.sender, answering), tasks)

    def _rest(self, by_udp: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(by_udp.fileno())
        loop.call_later(REST_S, self._resume, by_udp, tasks)

    def _resume(self, by_udp: socket.socket, tasks: asyncio.TaskGroup) -> None:
        if not self._ending:
            asyncio.get_running_loop().add_reader(by_udp.fileno(), self._read, by_udp, tasks)

    def _take(self, packet: bytes, server: str, client: Client, tasks: asyncio.TaskGroup) -> None:
        query = read_query(packet)
        if query is None:
            return
        limit = query.udp_bytes if isinstance(query, Query) else MAX_UDP_BYTES
        answer = self._at_once(query, server, by_tcp=False, limit_bytes=limit)
        answering = client.answering or self._answering(server)
        if answer is not None and answering is not None:
            _send(answering, answer, client.address)
        elif self._waiting < MAX_WAITING:
            self._waiting += 1
            tasks.create_task(self._answer_later(query, answer, server, client), name=f"dns of {self._name}")
        else:
            self._count(By.NOBODY, by_tcp=False)

    def _answering(self, server: str) -> socket.socket | None:
        held = self._forwarder.known(server)
        return held.answering if held else None

    async def _answer_later(self, query: Query | bytes, answer: bytes | None, server: str, client: Client) -> None:
        try:
            answering = client.answering or (await self._forwarder.server(server)).answering
            self.problem = ""
            if answer is None and isinstance(query, Query):
                answer = await self._wait(query, server, by_tcp=False, limit_bytes=query.udp_bytes)
            if answer is not None and answering is not None:
                _send(answering, answer, client.address)
        except OSError as error:
            self._fail(error)
        except Exception:  # one question must not be the end of all others
            log.exception("dns of %s: a question could not be answered", self._name)
        finally:
            self._waiting -= 1

    def _fail(self, error: OSError) -> None:
        """Told in the log once in a while: who asks could have it said for each question."""
        self.problem = f"questions are not answered: {error}"
        if self._clock() >= self._silent_until_s:
            self._silent_until_s = self._clock() + SILENT_S
            log.warning("workload %s: a question to DNS is not answered: %s", self._name, error)

    # ---- TCP

    async def _accept(self, by_tcp: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                made, _ = await loop.sock_accept(by_tcp)
            except OSError as error:
                log.debug("dns of %s: %s", self._name, error)
                await asyncio.sleep(REST_S)
                continue
            if self._streams >= MAX_STREAMS:
                made.close()
                continue
            self._streams += 1
            tasks.create_task(self._serve_stream(made), name=f"dns of {self._name}: a client")

    async def _serve_stream(self, made: socket.socket) -> None:
        try:
            server = self._asked.meant_by(made)
            reader, writer = await asyncio.open_connection(sock=made)
        except OSError:
            made.close()
            self._streams -= 1
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._read_stream(reader, writer, server, tasks)
        except* (OSError, TimeoutError):
            pass  # who went away, or says nothing, gets nothing more
        except* Exception:  # one client's trouble is no other's
            log.exception("dns of %s: a client could not be served", self._name)
        finally:
            self._streams -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _read_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: str, tasks: asyncio.TaskGroup) -> None:
        pipelined = asyncio.Semaphore(MAX_PIPELINED)
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    await pipelined.acquire()
            except EOFError:  # it asks nothing more, and still waits for answers
                return
            query = read_query(packet)
            if query is None:
                return
            while not self._rate.take(self._clock()):  # noqa: ASYNC110 - time is what is waited for
                await asyncio.sleep(REST_S)
            tasks.create_task(self._answer_stream(query, writer, server, pipelined), name=f"dns of {self._name}: tcp")

    async def _answer_stream(self, query: Query | bytes, writer: asyncio.StreamWriter, server: str, pipelined: asyncio.Semaphore) -> None:
        try:
            answer = self._at_once(query, server, by_tcp=True, limit_bytes=MAX_MESSAGE_BYTES)
            if answer is None and isinstance(query, Query):
                answer = await self._wait(query, server, by_tcp=True, limit_bytes=MAX_MESSAGE_BYTES)
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(WRITE_S):
                    await writer.drain()
        finally:
            pipelined.release()

    # ---- both

    def _at_once(self, query: Query | bytes, server: str, *, by_tcp: bool, limit_bytes: int) -> bytes | None:
        """The answer, if it takes no waiting."""
        if not isinstance(query, Query):
            self._count(By.NOBODY, by_tcp=by_tcp)
            return query
        found = self._look_up(query)
        if isinstance(found, Answer):
            self._count(By.MESH, by_tcp=by_tcp)
            return write_answer(query, found, ttl_s=TTL_S, limit_bytes=limit_bytes)
        if isinstance(found, NeedsEndpoints | NeedsResolver):
            return None
        cached = self._forwarder.cached(query, server, by_tcp=by_tcp, limit_bytes=limit_bytes)
        if cached is not None:
            self._count(By.CACHE, by_tcp=by_tcp)
        return cached

    async def _wait(self, query: Query, server: str, *, by_tcp: bool, limit_bytes: int) -> bytes:
        """The answer to what could not be answered at once."""
        found = self._look_up(query)
        if isinstance(found, NeedsEndpoints) and await self._knowledge.endpoints.come(found.key):
            found = self._look_up(query)
        if isinstance(found, Answer):
            self._count(By.MESH, by_tcp=by_tcp)
            return write_answer(query, found, ttl_s=TTL_S, limit_bytes=limit_bytes)
        if isinstance(found, NeedsResolver):
            answer = await aliases.follow(query, found, self._forwarder, server, by_tcp=by_tcp, limit_bytes=limit_bytes)
        else:
            answer = await self._forwarder.ask(query, server, by_tcp=by_tcp, limit_bytes=limit_bytes)
        self._count(By.RESOLVER if answer else By.NOBODY, by_tcp=by_tcp)
        return answer or failure(query)

    def _look_up(self, query: Query) -> Answer | NeedsEndpoints | NeedsResolver | None:
        return lookup.answer(query, self._namespace, self._knowledge.directory, self._knowledge.endpoints)

    def _count(self, by: By, *, by_tcp: bool) -> None:
        self._counts.answered[by, by_tcp] += 1


def _send(answering: socket.socket, answer: bytes, client: Address) -> None:
    # A client that has gone, or takes no more, asks again.
    with suppress(OSError):
        answering.sendto(answer, client)
