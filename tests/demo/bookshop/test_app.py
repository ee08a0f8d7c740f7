"""demo/bookshop/app.py and its client: over real connections, the accounts of both sides agree, and it misbehaves as it is told."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Self

import msgspec
import pytest

from demo.bookshop import app as apps
from demo.bookshop.accounts import Account, Conduct, calls
from demo.bookshop.app import App
from demo.bookshop.exchange import Client, Handler, Request, Response, serve_connection
from demo.bookshop.services import service


class Server:
    """Handles requests on a port of this machine's loopback, and counts connections."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.close_all()

    async def close_all(self) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            await writer.wait_closed()

    @property
    def connections(self) -> int:
        return len(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await serve_connection(self._handle, reader, writer)


async def told(one: App, target: str) -> Account:
    return msgspec.json.decode((await one.control(Request("GET", target, {}))).body, type=Account)


async def test_connections_are_kept_and_replaced() -> None:
    one, client = App("ratings", service("ratings", "v1")), Client()
    async with Server(one.handle) as server:
        answers = [await client.ask("127.0.0.1", server.port, "/x", {}) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert json.loads(answers[0].body) == {"pod": "ratings", "ratings": [5, 4]}
        assert server.connections == 1
        await server.close_all()
        assert (await client.ask("127.0.0.1", server.port, "/x", {})).status == 200
        assert server.connections == 2
    assert (await client.ask("127.0.0.1", server.port, "/x", {})).status == 0
    assert (await told(one, "/account")).received == {"/x": 4}


async def test_it_misbehaves_as_it_is_told() -> None:
    one = App("ratings", service("ratings", "v1"))

    async def statuses() -> list[int]:
        return [(await one.handle(Request("GET", "/", {}))).status for _ in range(6)]

    await told(one, f"/conduct?{Conduct(fail=2, of=3, status=502).query}")
    assert await statuses() == [502, 502, 200] * 2
    await told(one, f"/conduct?{Conduct().query}")
    assert await statuses() == [200] * 6
    await told(one, f"/conduct?{Conduct(delay_s=0.05).query}")
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await one.handle(Request("GET", "/", {}))
    assert loop.time() - began_s > 0.04
    assert (await told(one, "/account")).total == 13


async def test_it_counts_its_own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    ratings, reviews = App("ratings", service("ratings", "v1")), App("reviews-v2", service("reviews", "v2"))
    await told(ratings, f"/conduct?{Conduct(fail=1, of=2, status=503).query}")
    async with Server(ratings.handle) as server:
        with closing(reviews), resolving("ratings", server.port, monkeypatch):
            said = [json.loads((await reviews.handle(Request("GET", "/reviews", {"end-user": "ann"}))).body) for _ in range(4)]
    assert [one["ratings"]["status"] for one in said] == [503, 200] * 2
    accounts = [await told(one, "/account") for one in (ratings, reviews)]
    assert accounts[0].received == {"/ratings": 4}
    assert calls(accounts) == {("ratings", 200): 2, ("ratings", 503): 2}


@contextmanager
def resolving(name: str, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has services find `name` at a port of the loopback."""
    ask = Client.ask

    async def asked(client: Client, host: str, _port: int, target: str, headers: dict[str, str]) -> Response:
        assert host == name
        return await ask(client, "127.0.0.1", port, target, headers)

    with monkeypatch.context() as patched:
        patched.setattr(apps.Client, "ask", asked)
        yield


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"x" * 100_000, b"GET / HTTP/1.1\r\n"]
)
async def test_what_is_no_request_is_closed(sent: bytes) -> None:
    async with Server(App("ratings", service("ratings", "v1")).handle) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        writer.write_eof()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


async def exchanged(sent: bytes) -> tuple[bytes, list[bytes]]:
    """What is answered, and the bodies that were understood."""
    bodies: list[bytes] = []

    async def keep(request: Request) -> Response:
        bodies.append(request.body)
        return Response(200)

    async with Server(keep) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        writer.write_eof()
        answered = await reader.read()
        writer.close()
    return answered, bodies


async def test_bodies_in_pieces() -> None:
    whole = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nok"
    answered, bodies = await exchanged(CHUNKED + b"3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\nlast: one\r\n\r\n" + whole)
    assert bodies == [b"abc0123456789", b"ok"]
    assert answered.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("body", [b"zz\r\nabc\r\n", b"-3\r\nabc\r\n", b"100001\r\n", b"5\r\nabc"])
async def test_pieces_that_are_none(body: bytes) -> None:
    assert await exchanged(CHUNKED + body) == (b"", [])
