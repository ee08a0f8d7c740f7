"""A container engine's API on its unix socket: all containers with a label, again after everything that happens to one."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Self

import aiohttp
import msgspec

from nodeagent.runtime.container import Container

log = logging.getLogger(__name__)

_REQUEST_S: Final = 10.0
_RETRY_S: Final = 1.0
_RELIST_S: Final = 30.0
"""Events are a hint: what they lack is found by then."""
_MAX_ANSWER_BYTES: Final = 16 << 20
_EVENTS: Final = ("start", "die", "stop", "kill", "destroy", "rename", "update", "pause", "unpause", "restart")


class EngineError(Exception):
    """The engine refused, or does not answer as engines do."""


class _Listed(msgspec.Struct, rename="pascal"):
    id: str


_list = msgspec.json.Decoder(list[_Listed])
_container = msgspec.json.Decoder(Container)


class Engine:
    """To be opened (`async with`) in the event loop that uses it. `label` is `name=value`."""

    def __init__(self, socket: Path, label: str) -> None:
        self._socket = socket
        self._label = label
        self._happened = asyncio.Event()
        self.last: tuple[Container, ...] | None = None
        """The last list, None before the first."""
        self.problem = "not asked yet"
        """Why the engine can't be asked now, in words; empty if it can."""

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_REQUEST_S)
        self._session = aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(str(self._socket)), timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def containers(self, *, tick_s: float) -> AsyncIterator[tuple[Container, ...] | None]:
        """Each list that comes, and None every `tick_s` in between."""
        listening = asyncio.ensure_future(self._listen())
        loop = asyncio.get_running_loop()
        list_at_s = loop.time()
        try:
            while True:
                if self._happened.is_set() or loop.time() >= list_at_s:
                    self._happened.clear()
                    listed = await self._try_list()
                    list_at_s = loop.time() + (_RETRY_S if listed is None else _RELIST_S)
                    yield listed
                yield None
                await self._tick(tick_s)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _tick(self, tick_s: float) -> None:
        try:
            async with asyncio.timeout(tick_s):
                await self._happened.wait()
        except TimeoutError:
            return

    async def _try_list(self) -> tuple[Container, ...] | None:
        try:
            self.last = await self._list()
        except (aiohttp.ClientError, OSError, TimeoutError, EngineError) as error:
            self._report(f"the engine at {self._socket}: {error or type(error).__name__}")
            return None
        self._report("")
        return self.last

    async def _list(self) -> tuple[Container, ...]:
        filters = json.dumps({"label": [self._label], "status": ["running", "paused"]})
        try:
            listed = _list.decode(await self._get("/containers/json", {"filters": filters}) or b"[]")
            bodies = [await self._get(f"/containers/{one.id}/json", {}) for one in listed]
            # None: it ended after the list was made.
            found = tuple(_container.decode(body) for body in bodies if body is not None)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EngineError(f"answers what can't be read: {error}") from error
        return found

    async def _get(self, path: str, query: dict[str, str]) -> bytes | None:
        # Without a version in the path an engine answers in its own: each drops old ones some day, and these answers never changed.
        async with asyncio.timeout(_REQUEST_S), self._session.get(path, params=query) as response:
            if response.status == 404:
                return None
            body = await response.content.read(_MAX_ANSWER_BYTES)
            while chunk := await response.content.read(_MAX_ANSWER_BYTES):
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise EngineError(f"answers more than {_MAX_ANSWER_BYTES} bytes")
            if response.status != 200:
                raise EngineError(f"{path}: HTTP {response.status}: {body[:200].decode(errors='replace')}")
            return body

    async def _listen(self) -> None:
        """Says that something happened, for each event; a stream that breaks is opened again."""
        filters = json.dumps({"type": ["container"], "event": list(_EVENTS)})
        while True:
            try:
                async with self._session.get("/events", params={"filters": filters}) as response:
                    # What happened before the stream was there is in the next list.
                    self._happened.set()
                    async for _ in response.content.iter_any():
                        self._happened.set()
            except (aiohttp.ClientError, OSError) as error:
                log.debug("events of the engine: %s", error)
            self._happened.set()
            await asyncio.sleep(_RETRY_S)

    def _report(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s; the containers that are known stay in the mesh", problem)
        self.problem = problem
