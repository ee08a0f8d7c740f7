"""A runtime of containers that runs, and what it has told last."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from nodeagent.runtime.base import LocalWorkload
from nodeagent.runtime.containers import ContainersRuntime


class Followed:
    """What a runtime has told last."""

    def __init__(self, runtime: ContainersRuntime) -> None:
        self.runtime = runtime
        self.told: tuple[LocalWorkload, ...] | None = None

    @property
    def names(self) -> list[str] | None:
        return None if self.told is None else [workload.uid for workload in self.told]

    async def run(self) -> None:
        async with aclosing(self.runtime.watch()) as sets:  # type: ignore[type-var]
            async for workloads in sets:
                self.told = workloads


@asynccontextmanager
async def following(*sockets: Path, usual: bool = False, exempt: tuple[str, ...] = ()) -> AsyncIterator[Followed]:
    followed = Followed(ContainersRuntime(sockets, usual=usual, exempt=exempt))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(followed.run())
        yield followed
        task.cancel()
