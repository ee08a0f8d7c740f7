"""Waiting in a test for what becomes true, with a deadline."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, deadline_s: float = 10.0) -> None:
    """Returns when `condition` holds; fails the test if it does not in time."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process, or state without an event
            await asyncio.sleep(0.005)
