"""Takes spans as Zipkin does, and shows them: `python -m demo.bookshop.collector --control SOCKET`."""

import argparse
import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec

from demo.bookshop.exchange import Request, Response, serve_connection

PORT: Final = 9411


class Collector:
    """Keeps what it is told, as it is told."""

    def __init__(self) -> None:
        self._spans: list[Any] = []

    async def take(self, request: Request) -> Response:
        """A batch of spans; says 400 to what is none."""
        try:
            self._spans += msgspec.json.decode(request.body, type=list[dict[str, Any]])
        except msgspec.DecodeError:
            return Response(400)
        return Response(202)

    async def show(self, _request: Request) -> Response:
        """To the demo, on the unix socket."""
        return Response(200, msgspec.json.encode(self._spans))


async def main() -> None:
    """Serves until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control", type=Path, required=True)
    options = parser.parse_args()
    collector = Collector()
    servers = (
        await asyncio.start_server(lambda r, w: serve_connection(collector.take, r, w), host=None, port=PORT),
        await asyncio.start_unix_server(lambda r, w: serve_connection(collector.show, r, w), path=options.control),
    )
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
