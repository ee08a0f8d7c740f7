"""Waiting for whatever changes next: who waits looks for itself whether it is what it waited for."""

import asyncio


class Turn:
    """One event loop's. Cheap to tell when nobody waits."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Something changed."""
        told, self._next = self._next, asyncio.Event()
        told.set()

    async def wait(self) -> None:
        """Returns at the next `tell`."""
        await self._next.wait()
