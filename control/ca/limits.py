"""How much one caller may ask: its requests are served one after the other, at a rate, from a short queue.

Who asks for more waits before it is refused: since a connection carries a bounded number of requests at once, that wait is what
holds a flood back. Other callers never wait for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from control.ca.refusal import BusyError


@dataclass(frozen=True)
class Limits:
    """Of each caller. A node that starts with a hundred pods fits into the burst."""

    rate_per_s: float = 50.0
    burst: int = 300
    queue: int = 128
    refusal_delay_s: float = 5.0
    delayed: int = 2048
    """Refusals that may wait at once; beyond them a refusal is immediate."""
    callers: int = 20_000


@dataclass
class _Share:
    tokens: float
    refilled_s: float
    serial: asyncio.Lock = field(default_factory=asyncio.Lock)
    queued: int = 0
    delayed: int = 0


class CallerLimits:
    """The shares of all callers. Only callers that are authenticated get one, so their number is that of the nodes."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._shares: dict[str, _Share] = {}

    @asynccontextmanager
    async def admitted(self, caller: str) -> AsyncIterator[None]:
        """Holds the caller's turn; raises BusyError, after a delay, if it asks for more than its share."""
        share = self._share(caller)
        if share.tokens < 1 or share.queued >= self._limits.queue:
            await self._refuse(share)
        share.tokens -= 1
        share.queued += 1
        try:
            async with share.serial:
                yield
        finally:
            share.queued -= 1

    async def _refuse(self, share: _Share) -> None:
        if share.delayed < self._limits.delayed:
            share.delayed += 1
            try:
                await asyncio.sleep(self._limits.refusal_delay_s)
            finally:
                share.delayed -= 1
        raise BusyError("rate", f"more than {self._limits.rate_per_s:g} requests a second or {self._limits.queue} at once")

    def _share(self, caller: str) -> _Share:
        now_s = self._monotonic()
        share = self._shares.get(caller)
        if share is None:
            if len(self._shares) >= self._limits.callers:
                self._forget_idle(now_s)
            share = self._shares[caller] = _Share(tokens=self._limits.burst, refilled_s=now_s)
        share.tokens = min(self._limits.burst, share.tokens + (now_s - share.refilled_s) * self._limits.rate_per_s)
        share.refilled_s = now_s
        return share

    def _forget_idle(self, now_s: float) -> None:
        full_after_s = self._limits.burst / self._limits.rate_per_s
        self._shares = {
            caller: share
            for caller, share in self._shares.items()
            if share.queued or share.delayed or now_s - share.refilled_s < full_after_s
        }
