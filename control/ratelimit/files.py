"""The configuration files, followed: all of a change or nothing is taken over, and what was in force before stays."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from control.ratelimit.config import ConfigurationError, Domains, domains
from control.source.directory import DirectoryScanner, Watch
from control.source.tree import Absent, Unreadable

log = logging.getLogger(__name__)


class Files:
    """A directory of YAML."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._scanner = DirectoryScanner(directory)
        self._texts: dict[str, str | Unreadable] = {}

    def read(self) -> Domains | None:
        """What they say now; None if it has not changed. Raises ConfigurationError."""
        changed = self._scanner.scan()
        for file, state in changed.items():
            if isinstance(state, Absent):
                self._texts.pop(file, None)
            else:
                self._texts[file] = state
        if not changed:
            return None
        texts: dict[str, str] = {}
        for file, text in self._texts.items():
            if isinstance(text, Unreadable):
                raise ConfigurationError(f"{file}: {text.reason}")
            texts[file] = text
        return domains(texts)

    async def follow(self, take: Callable[[Domains], None], wrong: Callable[[bool], None]) -> None:
        """Calls `take` with each change that is right, and `wrong` with whether the last one was not."""
        loop, stop = asyncio.get_running_loop(), threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="rate-limit-files") as thread:
            try:
                watch = await loop.run_in_executor(thread, Watch, self._directory)
                while True:
                    try:
                        found = await loop.run_in_executor(thread, self.read)
                    except ConfigurationError as error:
                        log.error("the limits in force stay: %s", error)  # noqa: TRY400 -- the message says it all
                        wrong(True)  # noqa: FBT003
                    else:
                        if found is not None:
                            take(found)
                            wrong(False)  # noqa: FBT003
                            log.info("limits of %d domains are in force", len(found))
                    await loop.run_in_executor(thread, watch.wait, stop)
            finally:
                stop.set()
