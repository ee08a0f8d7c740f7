"""The end of a test that talked TLS: its connections say goodbye first, else the loop that is closed before warns in another test."""

import asyncio
from typing import Final

LONGEST_S: Final = 0.3


async def quiet() -> None:
    """Returns when no connection of this loop is left, or after a moment: others may go on."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + LONGEST_S
    while loop._transports and loop.time() < deadline_s:  # noqa: ASYNC110 -- polls what has no event, with a deadline
        await asyncio.sleep(0.005)
