"""The pipe by which Envoy reports, read by a thread of its own: what nobody reads would grow in Envoy's memory, whatever else is slow here.

Lines that are not taken in time are lost, and counted.
"""

import asyncio
import contextlib
import fcntl
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 16 << 20
"""Of what waits to be taken, and of a line."""
_CHUNK_BYTES: Final = 1 << 20
_LINE: Final = b"\n"


class _Waiting:
    """Whole lines, in the order in which they came. Filled by the thread, emptied by the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._pieces: deque[bytes] = deque()
        self._size_bytes = 0
        self.lost = 0
        """Lines."""

    def put(self, piece: bytes) -> None:
        with self._lock:
            if self._size_bytes + len(piece) > self._max_bytes:
                self.lost += piece.count(_LINE)
                return
            self._pieces.append(piece)
            self._size_bytes += len(piece)

    def take(self) -> bytes | None:
        with self._lock:
            if not self._pieces:
                return None
            piece = self._pieces.popleft()
            self._size_bytes -= len(piece)
            return piece


class ReportPipe:
    """`lost`: how many lines nobody took in time."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._waiting = _Waiting(max_bytes)
        self._max_bytes = max_bytes
        self._ending = False

    @property
    def lost(self) -> int:
        return self._waiting.lost

    @asynccontextmanager
    async def reading(self, take: Callable[[list[str]], None]) -> AsyncIterator[None]:
        """Makes the pipe (0600) in place of one that a former process left, and gives what comes to `take`; raises OSError."""
        self._path.unlink(missing_ok=True)
        os.mkfifo(self._path, 0o600)
        # Open for both: there is always a reader, and always somebody who might write.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        wake = asyncio.Event()
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._read, args=(descriptor, lambda: loop.call_soon_threadsafe(wake.set)), name="reports")
        try:
            # Fewer turns of the thread; who has too many pipes already is left with a small one.
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)
            thread.start()
            async with asyncio.TaskGroup() as tasks:
                taking = tasks.create_task(self._take(wake, take), name="reports")
                yield
                taking.cancel()
        finally:
            self._ending = True
            if thread.ident is not None:
                os.write(descriptor, _LINE)
                thread.join()
            os.close(descriptor)
            self._path.unlink(missing_ok=True)

    def _read(self, descriptor: int, wake: Callable[[], object]) -> None:
        rest = b""
        while True:
            chunk = os.read(descriptor, _CHUNK_BYTES)
            if self._ending:
                return
            lines, end, rest = (rest + chunk).rpartition(_LINE)
            if len(rest) > self._max_bytes:
                rest = b""
            if end:
                self._waiting.put(lines + end)
                wake()

    async def _take(self, wake: asyncio.Event, take: Callable[[list[str]], None]) -> None:
        while True:
            await wake.wait()
            wake.clear()
            while (piece := self._waiting.take()) is not None:
                take(piece.decode(errors="replace").split("\n")[:-1])
                # Others of this loop have their turn between two pieces.
                await asyncio.sleep(0)
