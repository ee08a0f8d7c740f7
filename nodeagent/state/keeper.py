"""Writes the configuration down off the event loop: at once what decides who is let in, the rest a little later, all at the end.

An agent that is killed comes back with what was written. While a write is under way, changes gather for the next.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn

from nodeagent.state.files import StateDirectory
from nodeagent.state.kept import FILE, Kept, encode_kept

log = logging.getLogger(__name__)

DELAY_S: Final = 1.0
"""Changes that can wait and come within this time are written together."""
RETRY_S: Final = 10.0


class Keeper:
    """`collect` is called on the event loop when it is time to write."""

    def __init__(
        self, directory: StateDirectory, collect: Callable[[], Kept], *, delay_s: float = DELAY_S, retry_s: float = RETRY_S
    ) -> None:
        self._directory = directory
        self._collect = collect
        self._delay_s = delay_s
        self._retry_s = retry_s
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self.last_error: str | None = None

    def changed(self, *, urgent: bool) -> None:
        """There is something new to write, which can wait if it is not `urgent`."""
        self._changed.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> NoReturn:
        """Writes until it is cancelled; what was not written by then is written last."""
        try:
            while True:
                await self._changed.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._delay_s):
                        await self._urgent.wait()
                await self._write()
                if self.last_error is not None:
                    await asyncio.sleep(self._retry_s)
        finally:
            self._thread.shutdown(wait=True)  # two writers at once would spoil each other's draft
            if self._changed.is_set():
                self._changed.clear()
                self._directory.write(FILE, encode_kept(self._collect()))

    async def _write(self) -> None:
        self._changed.clear()
        self._urgent.clear()
        kept = self._collect()
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._directory.write(FILE, encode_kept(kept)))
        except OSError as error:
            # The agent serves on from memory; only a restart without the controller would miss this.
            self.last_error = f"{self._directory.path}: {error}"
            self._changed.set()
            log.warning("the configuration could not be kept on disk: %s", self.last_error)
        else:
            self.last_error = None
