"""Bounds the proxy's log while the proxy writes to it: when it has grown too large, its content moves to `.old` and it starts over.

The proxy limits itself to 20 lines a second, a few kilobytes; that would be some 300 MB a day. With this, log and `.old` together stay
below twice MAX_BYTES and what comes in one period, as long as an agent runs.
"""

import asyncio
import logging
import os
import shutil
from pathlib import Path
from typing import Final, NoReturn

log = logging.getLogger(__name__)

MAX_BYTES: Final = 4 << 20
"""The run directory is memory."""
PERIOD_S: Final = 5.0


async def keep_bounded(path: Path) -> NoReturn:
    """Looks every few seconds, until it is cancelled."""
    while True:
        await asyncio.to_thread(bound, path)
        await asyncio.sleep(PERIOD_S)


def bound(path: Path) -> None:
    """Empties the log if it is too large. The proxy keeps its descriptor, and appends: its next line is the first of the new content."""
    try:
        if path.stat().st_size <= MAX_BYTES:
            return
    except FileNotFoundError:
        return
    try:
        # Copied, since the proxy would go on in a file that was renamed. What it writes meanwhile is lost.
        with path.open("rb") as source, open(path.with_suffix(".old"), "wb", opener=_private) as target:
            shutil.copyfileobj(source, target)
    except OSError as error:
        log.warning("the proxy's log could not be copied before it was emptied: %s", error)
    try:
        os.truncate(path, 0)
    except OSError as error:
        log.warning("the proxy's log could not be emptied: %s", error)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
