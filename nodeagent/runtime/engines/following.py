"""Following one engine: all its containers of the mesh, again after everything that happens to one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol

from nodeagent.runtime.engines.container import Container, EngineError
from nodeagent.runtime.engines.containerd import ContainerdClient
from nodeagent.runtime.engines.docker import DockerClient

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0
_RELIST_S: Final = 30.0
"""Events are a hint: what they lack is found by then."""


class Client(Protocol):
    """An engine's API. Whatever goes wrong is an EngineError, an OSError or a TimeoutError."""

    async def containers(self) -> tuple[Container, ...]:
        """Those that are in the mesh now."""

    def events(self) -> AsyncIterator[None]:
        """One when the engine listens to what happens, then one whenever something may have happened to a container."""

    async def close(self) -> None: ...


async def dial(socket: Path, exempt: tuple[str, ...]) -> Client:
    """The client of whichever API is spoken at a socket; raises like a client. `exempt`: namespaces of containerd."""
    docker = DockerClient(socket)
    try:
        if await docker.answers():
            return docker
    except BaseException:
        await docker.close()
        raise
    await docker.close()
    containerd = ContainerdClient(socket, exempt)
    if await containerd.answers():
        return containerd
    await containerd.close()
    raise EngineError("speaks neither Docker's API nor containerd's")


class Followed:
    """An engine; its last list stays while it is away. `changed` is called in the loop after each new list."""

    def __init__(self, socket: Path, exempt: tuple[str, ...], changed: Callable[[], None]) -> None:
        self.socket = socket
        self._exempt = exempt
        self._changed = changed
        self._happened = asyncio.Event()
        self.last: tuple[Container, ...] | None = None
        """The last list, None before the first."""
        self.problem = f"the engine at {socket} is not asked yet"
        """Why the engine can't be asked now, in words; empty if it can."""

    async def run(self) -> None:
        """Until it is cancelled."""
        client = await self._dialled()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._list(client), name=f"containers at {self.socket}")
                tasks.create_task(self._listen(client), name=f"events at {self.socket}")
        finally:
            await client.close()

    async def _dialled(self) -> Client:
        while True:
            try:
                return await dial(self.socket, self._exempt)
            except (EngineError, OSError, TimeoutError) as error:
                self._report(error)
            await asyncio.sleep(_RETRY_S)

    async def _list(self, client: Client) -> None:
        while True:
            self._happened.clear()
            try:
                self.last = await client.containers()
            except (EngineError, OSError, TimeoutError) as error:
                self._report(error)
                await asyncio.sleep(_RETRY_S)
                continue
            self.problem = ""
            self._changed()
            try:
                async with asyncio.timeout(_RELIST_S):
                    await self._happened.wait()
            except TimeoutError:
                pass

    async def _listen(self, client: Client) -> None:
        """A stream that breaks is opened again; what happened meanwhile is in the next list."""
        while True:
            try:
                async with aclosing(client.events()) as events:  # type: ignore[type-var]
                    async for _ in events:
                        self._happened.set()
            except (EngineError, OSError, TimeoutError) as error:
                log.debug("events of the engine at %s: %s", self.socket, error)
            self._happened.set()
            await asyncio.sleep(_RETRY_S)

    def _report(self, error: Exception) -> None:
        problem = f"the engine at {self.socket}: {error or type(error).__name__}"
        if problem != self.problem:
            log.warning("%s; the containers that are known stay in the mesh", problem)
        self.problem = problem
