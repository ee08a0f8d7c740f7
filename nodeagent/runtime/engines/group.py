"""Several engines, as one: each is followed by a task of its own as soon as it is there."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from nodeagent.runtime.engines.container import Container
from nodeagent.runtime.engines.following import Followed


class Engines:
    """To be opened (`async with`) in the event loop that uses it.

    `sockets`: all are followed; `usual`: those only that are there. `exempt`: namespaces of containerd that are not looked into.
    """

    def __init__(self, sockets: tuple[Path, ...], *, usual: bool, exempt: tuple[str, ...]) -> None:
        self._sockets = sockets
        self._usual = usual
        self._exempt = exempt
        self._changed = asyncio.Event()
        self._followed: dict[Path, tuple[Followed, asyncio.Future[None]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        tasks = [task for _, task in self._followed.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def changed_within(self, timeout_s: float) -> bool:
        """Whether there is a new list of one of them; raises what ended the following of one."""
        for socket in self._sockets:
            if socket not in self._followed and (not self._usual or socket.is_socket()):
                engine = Followed(socket, self._exempt, self._changed.set)
                self._followed[socket] = engine, asyncio.ensure_future(engine.run())
        for _, task in self._followed.values():
            if task.done():
                task.result()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    @property
    def containers(self) -> tuple[Container, ...]:
        """The last that each told."""
        return tuple(container for engine, _ in self._followed.values() for container in engine.last or ())

    @property
    def complete(self) -> bool:
        """Whether each has told once."""
        return all(engine.last is not None for engine, _ in self._followed.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """Why engines can't be asked now, in words."""
        if not self._followed:
            return (f"there is no engine at {' or '.join(map(str, self._sockets))}",)
        return tuple(engine.problem for engine, _ in self._followed.values() if engine.problem)
