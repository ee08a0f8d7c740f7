"""One service of the bookshop: `python -m demo.bookshop.app NAME --pod POD --version V --control SOCKET`; says when it listens."""

import argparse
import asyncio
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec

from demo.bookshop.accounts import Account, Conduct
from demo.bookshop.exchange import Client, Request, Response, serve_connection
from demo.bookshop.services import PORT, Service, handed_on, served_path, service


class App:
    """Keeps the account, and misbehaves as it is told."""

    def __init__(self, pod: str, answer: Service) -> None:
        self._pod = pod
        self._answer = answer
        self._client = Client()
        self._account = Account()
        self._conduct = Conduct()
        self._number = 0

    async def handle(self, request: Request) -> Response:
        """A request of the mesh's."""
        self._account.receive(served_path(request.target))
        number, self._number = self._number, self._number + 1
        conduct = self._conduct
        if conduct.delay_s:
            await asyncio.sleep(conduct.delay_s)
        if conduct.fails(number):
            return _answer(conduct.status, {"pod": self._pod})
        return _answer(200, {"pod": self._pod, **await self._answer(request, self._ask)})

    async def control(self, request: Request) -> Response:
        """A request of the demo's, on the unix socket."""
        parts = urlsplit(request.target)
        if parts.path == "/conduct":
            said = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            self._conduct, self._number = msgspec.convert(said, Conduct, strict=False), 0
        return Response(200, msgspec.json.encode(self._account))

    def close(self) -> None:
        """The connections that it keeps."""
        self._client.close()

    async def _ask(self, name: str, headers: Mapping[str, str]) -> Response:
        response = await self._client.ask(name, PORT, f"/{name}", handed_on(headers))
        self._account.make(name, response.status)
        return response


def _answer(status: int, said: dict[str, object]) -> Response:
    return Response(status, json.dumps(said).encode() + b"\n", {"content-type": "application/json"})


async def main() -> None:
    """Serves until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--pod", required=True)
    parser.add_argument("--version", default="v1")
    parser.add_argument("--control", type=Path, required=True)
    options = parser.parse_args()
    with closing(App(options.pod, service(options.name, options.version))) as app:
        servers = (
            await asyncio.start_server(lambda r, w: serve_connection(app.handle, r, w), host=None, port=PORT),
            await asyncio.start_unix_server(lambda r, w: serve_connection(app.control, r, w), path=options.control),
        )
        print(f"{options.pod} listens", flush=True)
        await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
