"""What is not the mesh's to answer goes to the resolver that was asked: once for all who ask the same, and kept as long as it holds."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final, ParamSpec, Protocol, TypeVar

from nodeagent.dns import sockets
from nodeagent.dns.cache import Cache, Key, key_of
from nodeagent.dns.counts import Counts
from nodeagent.dns.rate import Rate
from nodeagent.dns.upstream import NoAnswerError, Upstream
from nodeagent.dns.wire import Answer, Code, Query, Response, pass_on, write_answer
from nodeagent.linux.namespaces import Namespace

MAX_SERVERS: Final = 8
"""Resolvers of one workload that are held at a time; the one that was first goes when there are more."""
SERVERS_PER_S: Final = 10.0
MAX_OPEN: Final = 256
"""Different questions of one workload that wait at a time."""
P = ParamSpec("P")
T = TypeVar("T")


class Off(Protocol):
    """Runs what blocks in a thread."""

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]: ...


class Server:
    """One resolver: `upstream` asks it, `answering` speaks in its name; None for one of this host, whose own port that is."""

    def __init__(self, upstream: Upstream, answering: socket.socket | None) -> None:
        self.upstream = upstream
        self.answering = answering

    def close(self) -> None:
        self.upstream.close()
        if self.answering is not None:
            self.answering.close()


class Forwarder:
    """Of one workload. Sockets are made in `namespace`, which stays the caller's."""

    def __init__(self, namespace: Namespace, off: Off, counts: Counts, clock: Callable[[], float]) -> None:
        self._namespace = namespace
        self._off = off
        self._counts = counts
        self._clock = clock
        self._cache = Cache()
        self._servers: dict[str, Server] = {}
        self._making = asyncio.Lock()
        self._new = Rate(SERVERS_PER_S, SERVERS_PER_S)
        self._open: dict[Key, asyncio.Future[tuple[bytes, Response] | None]] = {}

    def cached(self, query: Query, server: str, *, by_tcp: bool, limit_bytes: int) -> bytes | None:
        """An answer that is held."""
        now = self._clock()
        entry = self._cache.get(key_of(query, server, by_tcp=by_tcp), now)
        if entry is None:
            return None
        return pass_on(query, entry.packet, entry.response, age_s=int(now - entry.stored_s), limit_bytes=limit_bytes)

    async def ask(self, query: Query, server: str, *, by_tcp: bool, limit_bytes: int) -> bytes | None:
        """The resolver's answer; None if there is none."""
        key = key_of(query, server, by_tcp=by_tcp)
        if (waiting := self._open.get(key)) is not None:
            # Shielded: who stops waiting must not end it for the others.
            found = await asyncio.shield(waiting)
        elif len(self._open) < MAX_OPEN:
            found = await self._ask_once(query, server, key, by_tcp=by_tcp)
        else:
            found = None
        return pass_on(query, *found, limit_bytes=limit_bytes) if found else None

    async def server(self, address: str) -> Server:
        """A resolver by its address; raises OSError."""
        if (held := self._servers.get(address)) is not None:
            return held
        async with self._making:
            if (held := self._servers.get(address)) is not None:
                return held
            if not self._new.take(self._clock()):
                raise OSError(f"too many resolvers are asked, {address} is one more")
            # A second socket on a resolver's own port would take what is sent to it.
            of_host = ip_address(address).is_loopback
            answering = None if of_host else await self._off(self._namespace.run, sockets.open_answering, address)
            upstream = Upstream(
                address,
                lambda: self._off(self._namespace.run, sockets.open_pool, address),
                lambda: self._off(self._namespace.run, sockets.open_stream, address),
            )
            made = self._servers[address] = Server(upstream, answering)
        while len(self._servers) > MAX_SERVERS:
            self._servers.pop(next(iter(self._servers))).close()
        return made

    def known(self, address: str) -> Server | None:
        """A resolver that has been asked before."""
        return self._servers.get(address)

    def close(self) -> None:
        """What waits gets no answer."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    async def _ask_once(self, query: Query, server: str, key: Key, *, by_tcp: bool) -> tuple[bytes, Response] | None:
        waiting = self._open[key] = asyncio.get_running_loop().create_future()
        found = None
        try:
            found = await self._ask(query, server, by_tcp=by_tcp)
        finally:
            del self._open[key]
            waiting.set_result(found)
        if found:
            self._cache.put(key, *found, self._clock())
        return found

    async def _ask(self, query: Query, server: str, *, by_tcp: bool) -> tuple[bytes, Response] | None:
        began_s = self._clock()
        try:
            upstream = (await self.server(server)).upstream
            answer = await (upstream.ask_by_tcp(query) if by_tcp else upstream.ask(query))
        except (NoAnswerError, OSError):
            self._counts.failed()
            return None
        self._counts.asked(self._clock() - began_s)
        return answer


def failure(query: Query) -> bytes:
    """What a client is told whose question nobody answers: it may ask another resolver."""
    return write_answer(query, Answer(code=Code.FAILED, authoritative=False))
