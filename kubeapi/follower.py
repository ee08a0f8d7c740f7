"""The edge of watching one kind: asks what its state machine wants asked, and brings what came to whoever listens."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, assert_never

from kubeapi.client import APIError, KubeClient
from kubeapi.watching import Delivery, GetPage, OpenWatch, Pause, Watching
from kubeapi.wire import Lines, WireError, read_event, read_page

PAGE_S: Final = 60.0
OPEN_S: Final = 30.0
SILENCE_S: Final = 150.0
"""Bookmarks come about every minute: a watch that brings nothing for longer than this is taken for dead, whatever TCP thinks."""
log = logging.getLogger(__name__)


class Observer(Protocol):
    """Who counts."""

    def listed(self, path: str) -> None:
        """A whole list has come."""

    def failed(self, path: str, status: int) -> None:
        """A list or a watch failed with this HTTP status, or broke (0)."""


class Unobserved:
    """Nobody counts."""

    def listed(self, path: str) -> None: ...

    def failed(self, path: str, status: int) -> None: ...


class Follower:
    """Lists and watches the collection at `path` for ever; `deliver` gets each delivery, in order. `query` selects within it."""

    def __init__(
        self,
        client: KubeClient,
        path: str,
        watching: Watching,
        deliver: Callable[[Delivery], None],
        observer: Observer,
        *,
        query: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._watching = watching
        self._deliver = deliver
        self._observer = observer
        self._selection = query or {}
        self._told = ""
        self.complaint = ""
        """What went wrong last; empty once the server answers again."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            todo = self._watching.todo
            try:
                match todo:
                    case Pause(seconds):
                        await asyncio.sleep(seconds)
                        self._watching.rested()
                    case GetPage():
                        await self._get(todo)
                    case OpenWatch():
                        await self._watch(todo)
                    case _:
                        assert_never(todo)
            except APIError as error:
                self._failed(error, error.status, error.retry_after_s)
            except WireError as error:
                self._failed(error, error.status)

    async def _get(self, todo: GetPage) -> None:
        query = dict(self._selection) | ({"limit": str(todo.limit)} if todo.limit else {})
        if todo.continue_token:
            query["continue"] = todo.continue_token
        page = read_page(await self._client.request("GET", self._path, query, deadline_s=PAGE_S))
        self._deliver(self._watching.page(page))
        if not page.continue_token:
            self._observer.listed(self._path)
            self.complaint = self._told = ""

    async def _watch(self, todo: OpenWatch) -> None:
        query = dict(self._selection) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": todo.version,
            "timeoutSeconds": str(todo.timeout_s),
        }
        began_s = asyncio.get_running_loop().time()
        lines = Lines()
        async with self._client.stream(self._path, query, deadline_s=OPEN_S) as pieces:
            # An answer that begins is one, though nothing may happen for a minute.
            self.complaint = ""
            while (piece := await _next_piece(pieces.__anext__())) is not None:
                self._told = ""
                self._events(lines.feed(piece))
        self._watching.ended(asyncio.get_running_loop().time() - began_s)

    def _events(self, lines: list[bytes]) -> None:
        """In one delivery what came in one piece: a hundred changes at once are one push to each agent."""
        present: dict[tuple[str, str], Delivery] = {}
        for line in lines:
            try:
                learned = self._watching.event(read_event(line))
            except WireError:
                self._flush(present)
                raise
            for name in [item.key for item in learned.present] + list(learned.gone):
                # The last word on an object counts.
                present.pop(name, None)
                present[name] = learned
        self._flush(present)

    def _flush(self, learned: dict[tuple[str, str], Delivery]) -> None:
        if learned:
            present = tuple(item for one in learned.values() for item in one.present)
            self._deliver(Delivery(present, tuple(name for one in learned.values() for name in one.gone)))

    def _failed(self, error: Exception, status: int, retry_after_s: float = 0.0) -> None:
        self._watching.failed(status, retry_after_s)
        self._observer.failed(self._path, status)
        # One line for the same trouble, however often it is tried again.
        self.complaint = str(error)
        if self.complaint != self._told:
            self._told = self.complaint
            level = logging.INFO if status == 410 else logging.WARNING
            log.log(level, "%s: %s; what was read before stays in use", self._path, error)


async def _next_piece(piece: Awaitable[bytes]) -> bytes | None:
    """None at the end, and after a silence that is too long."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await piece
    except (StopAsyncIteration, TimeoutError):
        return None
