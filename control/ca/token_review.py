"""Asking Kubernetes whose token it is: briefly remembered, and never more questions at once than it should be asked."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from control.ca.refusal import BusyError, UnavailableError
from control.ca.service_accounts import Review
from kubeapi.client import APIError, KubeClient

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
KEPT_S: Final = 10.0
AT_ONCE: Final = 8
WAITING: Final = 512
MAX_KEPT: Final = 4096
DEADLINE_S: Final = 5.0


class _User(Struct, frozen=True):
    username: str = ""
    extra: dict[str, tuple[str, ...]] = {}


class _Status(Struct, frozen=True):
    authenticated: bool = False
    error: str = ""
    audiences: tuple[str, ...] = ()
    user: _User = _User()


class _Answer(Struct, frozen=True):
    status: _Status = _Status()


_decoder: Final = msgspec.json.Decoder(_Answer)


class TokenReviewer:
    """Implements Reviewer with TokenReviews. Tokens themselves are not kept, only their hashes."""

    def __init__(self, client: KubeClient, monotonic: Callable[[], float]) -> None:
        self._client = client
        self._monotonic = monotonic
        self._kept: dict[bytes, tuple[float, Review]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def review(self, token: str, audience: str) -> Review:
        """The answer of now, or of a few seconds ago; raises UnavailableError or BusyError."""
        key = hashlib.sha256(f"{audience} {token}".encode("utf-8", "surrogatepass")).digest()
        if (kept := self._remembered(key)) is not None:
            return kept
        if self._waiting >= WAITING:
            raise BusyError("token-reviews", f"{WAITING} tokens wait to be reviewed")
        self._waiting += 1
        try:
            async with self._turns:
                # Another request may have asked for the same one meanwhile.
                if (kept := self._remembered(key)) is None:
                    kept = await self._ask(token, audience)
                    self._remember(key, kept)
                return kept
        finally:
            self._waiting -= 1

    async def _ask(self, token: str, audience: str) -> Review:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [audience]}}
        try:
            status = _decoder.decode(await self._client.request("POST", PATH, body=body, deadline_s=DEADLINE_S)).status
        except APIError as error:
            raise UnavailableError("token-review", f"Kubernetes was asked about the token in vain: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError("token-review", f"Kubernetes' answer about the token can't be read: {error}") from error
        return Review(status.authenticated, status.error, status.audiences, status.user.username, status.user.extra)

    def _remembered(self, key: bytes) -> Review | None:
        kept = self._kept.get(key)
        return kept[1] if kept is not None and 0 <= self._monotonic() - kept[0] < KEPT_S else None

    def _remember(self, key: bytes, review: Review) -> None:
        if len(self._kept) >= MAX_KEPT:
            now_s = self._monotonic()
            self._kept = {one: kept for one, kept in self._kept.items() if now_s - kept[0] < KEPT_S}
        if len(self._kept) < MAX_KEPT:
            self._kept[key] = (self._monotonic(), review)
