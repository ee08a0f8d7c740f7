"""What the agent asks of the proxy: a report or the list of connections, each answer found by its number, with a deadline."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from nodeagent.ztunnel.protocol import ConnectionEntry, Connections, ListConnections, ProxyStatus, Report, ToProxy

REPORT_DEADLINE_S: Final = 0.5
LIST_DEADLINE_S: Final = 5.0


class NoAnswerError(Exception):
    """The proxy did not answer, or is not connected."""


@dataclass(slots=True)
class _Listing:
    done: asyncio.Future[tuple[ConnectionEntry, ...]]
    entries: list[ConnectionEntry] = field(default_factory=list)


class Requests:
    """Of one session."""

    def __init__(self, send: Callable[[ToProxy], None]) -> None:
        self._send = send
        self._last = 0
        self._reports: dict[int, asyncio.Future[ProxyStatus]] = {}
        self._listings: dict[int, _Listing] = {}

    async def report(self, *, deadline_s: float = REPORT_DEADLINE_S) -> ProxyStatus:
        """Asks for counters and gauges now; the counters have been taken in when this returns. Raises NoAnswerError."""
        self._last += 1
        number = self._last
        future: asyncio.Future[ProxyStatus] = asyncio.get_running_loop().create_future()
        self._reports[number] = future
        try:
            self._send(Report(number))
            async with asyncio.timeout(deadline_s):
                return await future
        except (TimeoutError, ConnectionError) as error:
            raise NoAnswerError("the proxy did not report in time") from error
        finally:
            del self._reports[number]

    async def connections(self, *, deadline_s: float = LIST_DEADLINE_S) -> tuple[ConnectionEntry, ...]:
        """Asks for the open connections. Raises NoAnswerError."""
        self._last += 1
        number = self._last
        listing = _Listing(asyncio.get_running_loop().create_future())
        self._listings[number] = listing
        try:
            self._send(ListConnections(number))
            async with asyncio.timeout(deadline_s):
                return await listing.done
        except (TimeoutError, ConnectionError) as error:
            raise NoAnswerError("the proxy did not list its connections in time") from error
        finally:
            del self._listings[number]

    def on_status(self, message: ProxyStatus) -> None:
        """An answer; one that nobody waits for any more is ignored."""
        future = self._reports.get(message.request)
        if future is not None and not future.done():
            future.set_result(message)

    def on_connections(self, message: Connections) -> None:
        """A part of an answer."""
        listing = self._listings.get(message.request)
        if listing is None or listing.done.done():
            return
        listing.entries += message.open
        if message.last:
            listing.done.set_result(tuple(listing.entries))

    def close(self) -> None:
        """The session is over: nobody waits for what can't come."""
        error = ConnectionError("the session is over")
        for future in self._reports.values():
            if not future.done():
                future.set_exception(error)
        for listing in self._listings.values():
            if not listing.done.done():
                listing.done.set_exception(error)
