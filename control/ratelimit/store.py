"""Where counts are kept: in this process, or in Redis, where several servers count together."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from control.ratelimit.asking import Ask
from control.ratelimit.limits import Limit
from control.ratelimit.windows import Windows

REDIS_TIMEOUT_S: Final = 0.25
_CONNECTIONS: Final = 32
_PREFIX: Final = b"nodemesh:limit:"


class UncountedError(Exception):
    """Nobody could count: who asked decides what that means for the request."""


class Store(Protocol):
    async def count(self, asks: Sequence[Ask], now_s: float) -> list[int]:
        """Counts each; 0 where there is nothing to count. Raises UncountedError."""

    async def ready(self) -> bool:
        """Whether it can count now."""

    async def close(self) -> None:
        """Lets go of what it holds."""


class MemoryStore:
    """Counts in this process, by a clock that no change of the time of day moves."""

    def __init__(self, windows: Windows, monotonic: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self.windows = windows
        self._monotonic = monotonic
        self._offset_s = now() - monotonic()

    async def count(self, asks: Sequence[Ask], now_s: float) -> list[int]:  # noqa: ARG002 -- for stores that others share
        return [self._count(ask) for ask in asks]

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        """There is nothing to let go of."""

    @property
    def keys(self) -> int:
        return self.windows.keys(self._now_s)

    def _count(self, ask: Ask) -> int:
        if not isinstance(ask.rule, Limit):
            return 0
        return self.windows.add(ask.rule.unit, ask.key, ask.group, ask.hits, self._now_s)

    @property
    def _now_s(self) -> float:
        return self._monotonic() + self._offset_s


class RedisStore:
    """Counts in Redis: a key for each window, which Redis forgets when it is over. Servers that share it need the same time of day."""

    def __init__(self, url: str, timeout_s: float = REDIS_TIMEOUT_S) -> None:
        """Raises ValueError for what is no address of Redis, OSError where its client is not installed."""
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError as error:
            raise OSError("counting in Redis needs the package redis: install nodemesh[redis]") from error

        self._timeout_s = timeout_s
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # One attempt: a count that was made and not heard of must not be made again.
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis(connection_pool=self._pool)

    async def count(self, asks: Sequence[Ask], now_s: float) -> list[int]:
        from redis.exceptions import RedisError

        counted = [(index, ask, ask.rule) for index, ask in enumerate(asks) if isinstance(ask.rule, Limit)]
        counts = [0] * len(asks)
        if not counted:
            return counts
        try:
            async with asyncio.timeout(self._timeout_s), self._redis.pipeline(transaction=True) as pipeline:
                for _, ask, limit in counted:
                    key = _redis_key(ask, limit, now_s)
                    pipeline.incrby(key, ask.hits)
                    # The window's length from now: never ahead of its end.
                    pipeline.expire(key, limit.unit.seconds)
                found = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise UncountedError(f"{type(error).__name__}: {error}"[:200]) from error
        for (index, _, _), count in zip(counted, found[::2], strict=True):
            counts[index] = int(count)
        return counts

    async def ready(self) -> bool:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(self._timeout_s):
                return bool(await self._redis.ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def close(self) -> None:
        await self._redis.aclose()
        await self._pool.disconnect()


def _redis_key(ask: Ask, limit: Limit, now_s: float) -> bytes:
    return _PREFIX + b"%s:%d:%d" % (ask.key.hex().encode(), limit.unit.seconds, int(now_s // limit.unit.seconds))
