"""The edge of watching one kind: asks what its state machine wants asked, and brings what came to whoever listens."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, assert_never

from control.kube.client import APIError, KubeClient
from control.metrics import Metrics
from control.source.kubernetes.watching import Delivery, GetPage, OpenWatch, Pause, Watching
from control.source.kubernetes.wire import Lines, WireError, read_event, read_page

PAGE_S: Final = 60.0
OPEN_S: Final = 30.0
SILENCE_S: Final = 150.0
"""Bookmarks come about every minute: a watch that brings nothing for longer than this is taken for dead, whatever TCP thinks."""
NO_SELECTOR: Final[Mapping[str, str]] = {}
log = logging.getLogger(__name__)


class Follower:
    """Lists and watches the collection at `path`, or what `selector` selects of it, for ever; `deliver` gets each delivery, in order."""

    def __init__(
        self,
        client: KubeClient,
        path: str,
        watching: Watching,
        deliver: Callable[[Delivery], None],
        metrics: Metrics,
        selector: Mapping[str, str] = NO_SELECTOR,
    ) -> None:
        self._client = client
        self._path = path
        self._watching = watching
        self._deliver = deliver
        self._selector = selector
        self._metrics = metrics
        self._complaint = ""

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
        query = {**self._selector} | ({"limit": str(todo.limit)} if todo.limit else {})
        if todo.continue_token:
            query["continue"] = todo.continue_token
        page = read_page(await self._client.request("GET", self._path, query, deadline_s=PAGE_S))
        self._deliver(self._watching.page(page))
        if not page.continue_token:
            self._metrics.source_lists.labels(self._path).inc()
            self._complaint = ""

    async def _watch(self, todo: OpenWatch) -> None:
        query = {
            **self._selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": todo.version,
            "timeoutSeconds": str(todo.timeout_s),
        }
        began_s = asyncio.get_running_loop().time()
        lines = Lines()
        async with self._client.stream(self._path, query, deadline_s=OPEN_S) as pieces:
            while (piece := await _next_piece(pieces.__anext__())) is not None:
                self._complaint = ""
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
        self._metrics.source_failures.labels(self._path, str(status)).inc()
        # One line for the same trouble, however often it is tried again.
        if str(error) != self._complaint:
            self._complaint = str(error)
            level = logging.INFO if status == 410 else logging.WARNING
            log.log(level, "%s: %s; what was read before stays in use", self._path, error)


async def _next_piece(piece: Awaitable[bytes]) -> bytes | None:
    """None at the end, and after a silence that is too long."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await piece
    except (StopAsyncIteration, TimeoutError):
        return None
