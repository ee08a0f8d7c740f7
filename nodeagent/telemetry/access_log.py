"""The access log: written in batches off the event loop, the last lines kept in memory, denials apart so that they are not washed away."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, NoReturn

from nodeagent.telemetry.records import Record
from nodeagent.telemetry.sinks import Sink

log = logging.getLogger(__name__)

KEPT_RECORDS: Final = 1000
KEPT_DENIALS: Final = 100
MAX_PENDING: Final = 50_000
MAX_BATCH: Final = 5_000
RETRY_S: Final = 1.0


class AccessLog:
    """Without a sink, only memory. `lost` counts lines that were shed since the writer could not keep up or could not write."""

    def __init__(
        self, sink: Sink | None, render: Callable[[Record], str], *, max_pending: int = MAX_PENDING, retry_s: float = RETRY_S
    ) -> None:
        self.render = render
        self.lost = 0
        self._sink = sink
        self._retry_s = retry_s
        self._max_pending = max_pending
        self._pending: deque[Record] = deque()
        self._recent: deque[Record] = deque(maxlen=KEPT_RECORDS)
        self._denials: deque[Record] = deque(maxlen=KEPT_DENIALS)
        self._count = 0
        self._arrived = asyncio.Event()

    def add(self, records: Iterable[Record]) -> None:
        """Takes records; never blocks."""
        for one in records:
            self._recent.append(one)
            self._count += 1
            if one.denied:
                self._denials.append(one)
            if self._sink is not None:
                self._pend(one)
        # Whoever waits holds this event; the next to wait gets a new one.
        self._arrived.set()
        self._arrived = asyncio.Event()

    def recent(self, count: int) -> tuple[list[Record], int]:
        """The last `count` records, oldest first, and the position behind them for `after`."""
        return list(self._recent)[max(len(self._recent) - count, 0) :], self._count

    async def after(self, position: int) -> tuple[list[Record], int]:
        """Waits until there are records behind `position`; returns those that are still kept, and the position behind them."""
        while self._count <= position:
            await self._arrived.wait()
        return self.recent(self._count - position)

    def denials(self) -> list[Record]:
        """The last connections denied by policy, oldest first."""
        return list(self._denials)

    async def run(self) -> NoReturn:
        """Writes until it is cancelled, then what is left."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="access-log")
        try:
            while True:
                arrived = self._arrived
                if not self._pending:
                    await arrived.wait()
                    continue
                batch = list(islice(self._pending, MAX_BATCH))
                writing = thread.submit(self._write, batch)
                try:
                    await asyncio.wrap_future(writing)
                finally:
                    # Cancelled while the thread writes: its end is waited for, or the lines would be written twice.
                    written = not writing.cancelled() and writing.result()
                    for _ in batch if written else ():
                        self._pending.popleft()
                if not written:
                    await asyncio.sleep(self._retry_s)
        finally:
            thread.shutdown()
            if self._pending:
                self._write(list(self._pending))

    def _pend(self, one: Record) -> None:
        if len(self._pending) < self._max_pending:
            self._pending.append(one)
        else:
            self.lost += 1

    def _write(self, batch: list[Record]) -> bool:
        if self._sink is None:
            return True
        try:
            self._sink.write(batch)
        except OSError as error:
            log.warning("the access log can't be written: %s", error)
            return False
        return True
