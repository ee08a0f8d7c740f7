"""What only the leader does: in rounds, as long as it leads."""

import asyncio
from typing import Final, Protocol

from control.cluster.elector import Elector

PERIOD_S: Final = 1.0


class Duty(Protocol):
    async def round(self) -> None:
        """Brings what is there to what should be, once; tells and forgets what the API server refuses."""


async def do_duties(elector: Elector, *duties: Duty) -> None:
    """Until cancelled. A round that is begun may end after the lead was lost: every write names the version that it was made from, or
    comes out the same whoever writes it."""
    while True:
        for duty in duties:
            if elector.leading:
                await duty.round()
        await asyncio.sleep(PERIOD_S)
