"""A TCP relay before an API server, to break what goes through it: cut, refuse, or say nothing more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """Listens on `port` of 127.0.0.1 and passes everything on to `target`, as long as it is told to."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._flows: set[asyncio.Task[None]] = set()
        self.refusing = False
        self.passing = asyncio.Event()
        self.passing.set()
        self.accepted = 0
        self.port = 0

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Ends all connections at once."""
        for flow in self._flows:
            flow.cancel()

    async def end(self) -> None:
        """Ends all connections, and waits until they are gone."""
        flows = tuple(self._flows)
        self.cut()
        await asyncio.gather(*flows, return_exceptions=True)
        # The sockets of aborted transports are closed in the loop's next round.
        await asyncio.sleep(0)

    def stall(self) -> None:
        """Connections stay, and nothing comes through."""
        self.passing.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._flows.add(task)
        try:
            if not self.refusing:
                await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._flows.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._copy(reader, far_writer))
                tasks.create_task(self._copy(far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(256 * 1024):
                await self.passing.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof() if writer.can_write_eof() else writer.close()


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    made = Relay(target)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.end()
