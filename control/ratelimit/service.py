"""Envoy's RateLimitService over gRPC. What can't be counted is an error, so that the limit's `onFailure` decides and not this server."""

import logging
import time
from collections.abc import Callable
from typing import Final

from control.ratelimit.asking import Answer, MalformedError, answer, asks
from control.ratelimit.config import Domains
from control.ratelimit.metrics import Metrics
from control.ratelimit.store import Store, UncountedError
from control.rpc import RPCHandler, grpc

SERVICE: Final = "envoy.service.ratelimit.v3.RateLimitService"
METHOD: Final = "ShouldRateLimit"
MAX_REQUEST_BYTES: Final = 256 * 1024
MAX_CONCURRENT: Final = 4096
_QUIET_S: Final = 10.0
"""So often at most it is logged that nobody can count."""
log = logging.getLogger(__name__)


class Judge:
    """Answers questions; `domains` are the limits of the files in force."""

    def __init__(self, store: Store, metrics: Metrics, now: Callable[[], float] = time.time) -> None:
        self.domains: Domains = {}
        self._store = store
        self._metrics = metrics
        self._now = now
        self._said_s = float("-inf")

    async def judge(self, body: bytes) -> Answer:
        """Raises MalformedError, UncountedError."""
        now_s = self._now()
        asked = asks(body, self.domains)
        found = answer(asked, await self._store.count(asked, now_s), now_s)
        self._metrics.decided(found.decisions)
        return found

    def handler(self) -> RPCHandler:
        """For a gRPC server."""

        async def call(body: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
            try:
                return (await self.judge(body)).body
            except MalformedError as error:
                self._metrics.failed("malformed")
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except UncountedError as error:
                self._metrics.failed("uncounted")
                self._say(error)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "nobody can count now")
            raise AssertionError("abort raises")

        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.unary_unary_rpc_method_handler(call)})

    def _say(self, error: UncountedError) -> None:
        if self._now() - self._said_s >= _QUIET_S:
            self._said_s = self._now()
            log.error("requests can't be counted: %s", error)
