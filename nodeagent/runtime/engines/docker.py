"""Docker's API on a unix socket, which Podman speaks, too."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct, field

from nodeagent.runtime.engines.container import LABEL, Container, EngineError, is_labelled

_REQUEST_S: Final = 10.0
_MAX_ANSWER_BYTES: Final = 16 << 20
_EVENTS: Final = ("start", "die", "stop", "kill", "destroy", "rename", "update", "pause", "unpause", "restart")


class _State(Struct, frozen=True, rename="pascal"):
    running: bool = False
    paused: bool = False
    """Which is not running to Podman, and is to Docker: it holds its network all the same."""
    pid: int = 0


class _Settings(Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class _Host(Struct, frozen=True, rename="pascal"):
    network_mode: str = ""


class _Endpoint(Struct, frozen=True):
    ipv4: str = field(default="", name="IPAddress")
    ipv6: str = field(default="", name="GlobalIPv6Address")


class _Networks(Struct, frozen=True, rename="pascal"):
    sandbox_key: str = ""
    networks: dict[str, _Endpoint] | None = None


class Inspected(Struct, frozen=True, rename="pascal"):
    """The few fields that are used of what the engine says of one container."""

    id: str
    name: str = ""
    state: _State = _State()
    config: _Settings = _Settings()
    host_config: _Host = _Host()
    network_settings: _Networks = _Networks()

    def container(self) -> Container | None:
        """None if it is not to be in the mesh, or shares another's network."""
        shares = self.host_config.network_mode.partition(":")[0] in {"host", "container", "none"}
        runs = (self.state.running or self.state.paused) and self.state.pid > 0
        labels = self.config.labels or {}
        if shares or not runs or not is_labelled(labels):
            return None
        endpoints = (self.network_settings.networks or {}).values()
        return Container(
            id=self.id,
            name=self.name.removeprefix("/"),
            labels=labels,
            pid=self.state.pid,
            # Bare, or between the engine's own words: an id is long enough to be nothing else.
            cgroup=re.escape(self.id),
            addresses=tuple(address for one in endpoints for address in (one.ipv4, one.ipv6) if address),
            sandbox=self.network_settings.sandbox_key,
        )


class _Listed(Struct, rename="pascal"):
    id: str


_list = msgspec.json.Decoder(list[_Listed])
_inspected = msgspec.json.Decoder(Inspected)


class DockerClient:
    """See `Client`. To be made in the event loop that uses it."""

    def __init__(self, socket: Path) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_REQUEST_S)
        self._session = aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(str(socket)), timeout=timeout)

    async def answers(self) -> bool:
        """Whether HTTP is spoken there. Raises OSError, TimeoutError if nobody is there."""
        try:
            async with asyncio.timeout(_REQUEST_S), self._session.get("/_ping"):
                return True
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientError:
            return False

    async def close(self) -> None:
        await self._session.close()

    async def containers(self) -> tuple[Container, ...]:
        """See `Client`."""
        filters = json.dumps({"label": ["=".join(LABEL)], "status": ["running", "paused"]})
        try:
            listed = _list.decode(await self._get("/containers/json", {"filters": filters}) or b"[]")
            bodies = [await self._get(f"/containers/{one.id}/json", {}) for one in listed]
            # None: it ended after the list was made.
            found = [_inspected.decode(body).container() for body in bodies if body is not None]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EngineError(f"answers what can't be read: {error}") from error
        except aiohttp.ClientError as error:
            raise EngineError(str(error) or type(error).__name__) from error
        return tuple(container for container in found if container is not None)

    async def events(self) -> AsyncIterator[None]:
        """See `Client`."""
        filters = json.dumps({"type": ["container"], "event": list(_EVENTS)})
        try:
            async with self._session.get("/events", params={"filters": filters}) as response:
                if response.status != 200:
                    raise EngineError(f"/events: HTTP {response.status}")
                yield
                async for _ in response.content.iter_any():
                    yield
        except aiohttp.ClientError as error:
            raise EngineError(str(error) or type(error).__name__) from error

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
