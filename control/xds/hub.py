"""All open discovery streams: brings each change of the model to the streams that it concerns, and ends those whose right has gone.

For each stream there is an outbox of at most one response per type (the stream's state machine sees to that), so a slow client
costs bounded memory and delays nobody.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from control.ca.callers import Agent, Credentials
from control.ca.refusal import BusyError, UnauthenticatedError
from control.metrics import Metrics
from control.resources import Changes, ResourceView, TypeURL
from control.xds.keys import NO_KEYS, keys_of
from control.xds.stream import Changed, Received, Stream, TypeStatus
from meshapi import discovery

MAX_STREAMS_PER_NODE = 8
log = logging.getLogger(__name__)


class AgentStatus(Struct, frozen=True):
    """One open stream, for the operator."""

    node: str
    peer: str
    client: str
    since_s: float
    types: list[TypeStatus]


class ClosedError(Exception):
    """The controller closes the stream, and all is well: the agent comes back at once."""


class Connection:
    """A stream with its outbox."""

    def __init__(self, agent: Agent, credentials: Credentials, views: Mapping[TypeURL, ResourceView], since_s: float) -> None:
        self.agent = agent
        self.credentials = credentials
        self.since_s = since_s
        self.stream = Stream(views)
        self.outbox: deque[discovery.Response] = deque()
        self.wake = asyncio.Event()
        self._reason: UnauthenticatedError | ClosedError = ClosedError()
        self._ended = asyncio.Event()

    def end(self, why: UnauthenticatedError | ClosedError) -> None:
        """Makes the stream close, whatever it is about."""
        self._reason = why
        self._ended.set()

    async def until_ended(self) -> None:
        """Raises why the stream must close, once it must."""
        await self._ended.wait()
        raise self._reason

    def send(self, responses: list[discovery.Response]) -> None:
        if responses:
            self.outbox.extend(responses)
            self.wake.set()

    def status(self) -> AgentStatus:
        return AgentStatus(self.agent.node, self.credentials.peer, self.stream.node.id[:200], self.since_s, self.stream.status())


class Hub:
    """The streams. All calls come from the event loop's thread."""

    def __init__(self, views: Mapping[TypeURL, ResourceView], metrics: Metrics, clock: Callable[[], float]) -> None:
        self._views = views
        self._metrics = metrics
        self._clock = clock
        self._connections: set[Connection] = set()
        self._per_node: Counter[str] = Counter()
        self._reported_types: set[str] = set()
        self._unwatch = [view.watch(self._changed) for view in {id(view): view for view in views.values()}.values()]

    def close(self) -> None:
        """Stops following the model and closes the streams."""
        for unwatch in self._unwatch:
            unwatch()
        for connection in self._connections:
            connection.end(ClosedError())

    @property
    def connected(self) -> int:
        return len(self._connections)

    def open(self, agent: Agent, credentials: Credentials) -> Connection:
        """Raises BusyError if the node has too many streams open."""
        if self._per_node[agent.node] >= MAX_STREAMS_PER_NODE:
            raise BusyError("streams", f"node {agent.node} has {MAX_STREAMS_PER_NODE} streams open")
        connection = Connection(agent, credentials, self._views, self._clock())
        self._connections.add(connection)
        self._per_node[agent.node] += 1
        return connection

    def leave(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._per_node[connection.agent.node] -= 1
        if not self._per_node[connection.agent.node]:
            del self._per_node[connection.agent.node]

    def receive(self, connection: Connection, request: discovery.Request) -> None:
        """Takes a request; raises RequestError if the stream must end."""
        nacks = connection.stream.nacks
        connection.send(connection.stream.step(Received(request, self._clock())))
        if connection.stream.nacks > nacks:
            self._metrics.nacks.labels(request.type_url).inc()
            log.warning("node %s refuses %s: %.1000r", connection.agent.node, request.type_url, request.error)
        self._report_unknown(connection.stream.unknown_types)

    @property
    def connections(self) -> tuple[Connection, ...]:
        return tuple(self._connections)

    def status(self) -> list[AgentStatus]:
        return sorted((connection.status() for connection in self._connections), key=lambda one: (one.node, one.since_s))

    def _changed(self, changes: Changes) -> None:
        for type_url, names in changes.items():
            view = self._views.get(type_url)
            if view is None:
                continue
            touched: dict[str, tuple[str, ...]] = {}
            for name in names:
                resource = view.get(type_url, name)
                keys = keys_of(type_url, resource) if resource else NO_KEYS
                touched[name] = (*keys.aliases, *keys.serves)
            event = Changed(type_url, touched)
            for connection in self._connections:
                connection.send(connection.stream.step(event))

    def _report_unknown(self, types: set[str]) -> None:
        for type_url in types - self._reported_types:
            # Once each, and not without end: the names come from clients.
            if len(self._reported_types) < 100:
                self._reported_types.add(type_url)
                log.warning("an agent asks for %.200r, which this controller does not have", type_url)
