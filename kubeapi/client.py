"""Requests to the API server: one connection pool, our token as it is now, and answers as bytes."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import msgspec
from msgspec import Struct

from kubeapi.access import Access

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"
"""Merges lists by the keys of their items; of Kubernetes' own kinds only."""
APPLY_PATCH: Final = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML, too."""
CONNECT_S: Final = 10.0
REQUEST_S: Final = 30.0
TOKEN_KEPT_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
_MAX_TEXT: Final = 300


class APIError(Exception):
    """The API server refused, with an HTTP status; or did not answer, which is status 0."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{status or 'no answer'} {reason}: {message[:_MAX_TEXT]}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class Status(Struct, frozen=True):
    """What the API server says when it refuses (`kind: Status`)."""

    reason: str = ""
    message: str = ""
    code: int = 0


class KubeClient:
    """To be opened (`async with`) in the event loop that uses it. All calls raise APIError."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._token = access.token
        self._token_read_s = -TOKEN_KEPT_S
        self._session: aiohttp.ClientSession | None = None

    @property
    def namespace(self) -> str:
        """Our own namespace, or nothing where that is not known."""
        return self._access.namespace

    async def __aenter__(self) -> Self:
        # Lists of thousands of objects come faster as they are than compressed by a busy API server.
        headers = {"Accept": JSON, "Accept-Encoding": "identity", "User-Agent": "nodemesh"}
        self._connector = aiohttp.TCPConnector(ssl=self._access.tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        self._session = aiohttp.ClientSession(connector=self._connector, timeout=timeout, headers=headers, read_bufsize=1024 * 1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            # Nobody waits for an API server to say goodbye.
            await self._connector.close(abort_ssl=True)
            await self._session.close()
            self._session = None
            await asyncio.sleep(0)

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
        deadline_s: float = REQUEST_S,
    ) -> bytes:
        """One request with a JSON-encodable body, and its whole answer; `accept`: in which form."""
        data = None if body is None else msgspec.json.encode(body)
        try:
            opened = self._open(method, path, query, data, content_type, accept)
            async with asyncio.timeout(deadline_s), opened as response:
                return await _bounded(response)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise APIError(0, type(error).__name__, str(error) or f"no answer within {deadline_s:g} s") from error

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str], *, deadline_s: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """An answer that goes on: its pieces as they come. `deadline_s` bounds the wait for the answer's head only."""
        try:
            async with asyncio.timeout(deadline_s) as head, self._open("GET", path, query, None, JSON) as response:
                head.reschedule(None)
                try:
                    yield response.content.iter_any()
                finally:
                    _abandon(response)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise APIError(0, type(error).__name__, str(error) or f"no answer within {deadline_s:g} s") from error

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, query: Mapping[str, str] | None, data: bytes | None, content_type: str, accept: str = JSON
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is not open")
        headers = {"Accept": accept} | ({"Content-Type": content_type} if data is not None else {})
        token = await self._current_token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        options: dict[str, Any] = {"server_hostname": self._access.server_name} if self._access.server_name else {}
        url = self._access.server + path
        async with self._session.request(
            method, url, params=query, data=data, headers=headers, allow_redirects=False, **options
        ) as response:
            if response.status == 401:
                # The file may hold a newer one already.
                self._token_read_s = -TOKEN_KEPT_S
            if not 200 <= response.status < 300:
                raise await _refusal(response)
            yield response

    async def _current_token(self) -> str:
        file = self._access.token_file
        now_s = time.monotonic()
        if file is not None and now_s - self._token_read_s >= TOKEN_KEPT_S:
            self._token = await asyncio.to_thread(_read_token, file, self._token)
            self._token_read_s = now_s
        return self._token


def _read_token(file: Path, before: str) -> str:
    """A file that can't be read now leaves the token that was read before."""
    try:
        return file.read_text().strip() or before
    except (OSError, UnicodeDecodeError):
        return before


def _abandon(response: aiohttp.ClientResponse) -> None:
    """Ends the connection of an answer that may still go on, at once."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    whole = bytearray()
    async for piece in response.content.iter_any():
        whole += piece
        if len(whole) > MAX_ANSWER_BYTES:
            raise APIError(0, "TooLarge", f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(whole)


async def _refusal(response: aiohttp.ClientResponse) -> APIError:
    body = await response.content.read(64 * 1024)
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = Status(message=body[:_MAX_TEXT].decode("utf-8", "replace"))
    return APIError(response.status, status.reason or str(response.reason), status.message, _seconds(response.headers.get("Retry-After")))


def _seconds(text: str | None) -> float:
    """Only the form in seconds is used; the API server writes no dates."""
    return min(float(text), 60.0) if text is not None and text.isascii() and text.isdigit() and len(text) < 6 else 0.0
