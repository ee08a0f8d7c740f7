"""Waiting for a condition, with a deadline, without guessing how long it takes."""

import asyncio
from collections.abc import Callable
from itertools import count


async def until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Returns when the condition holds; raises TimeoutError when it never does."""
    async with asyncio.timeout(timeout_s):
        for _ in count():
            if condition():
                return
            await asyncio.sleep(0.005)
