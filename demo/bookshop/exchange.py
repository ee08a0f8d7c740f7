"""HTTP/1.1 for the bookshop's services: a server, and a client that keeps its connections."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_BODY_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Request:
    """`target` as it was sent; names of headers in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """The status is 0 where none came."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


class BadMessageError(Exception):
    """It is no HTTP that is spoken here."""


async def serve_connection(handle: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers request after request, until the client has no more."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, BadMessageError):
        while True:
            first, headers, body = await _read(reader)
            method, target, _version = _three(first)
            response = await handle(Request(method, target, headers, body))
            lines = [f"HTTP/1.1 {response.status} -", *(f"{name}: {value}" for name, value in response.headers.items())]
            head = "\r\n".join([*lines, f"content-length: {len(response.body)}", "", ""])
            writer.write(head.encode("latin-1") + response.body)
            await writer.drain()
    writer.close()


@dataclass(frozen=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def usable(self) -> bool:
        return not self.reader.at_eof() and self.reader.exception() is None and not self.writer.is_closing()


class Client:
    """Keeps connections that are free, for each host and port."""

    def __init__(self) -> None:
        self._free: defaultdict[tuple[str, int], list[_Connection]] = defaultdict(list)

    async def ask(self, host: str, port: int, target: str, headers: Mapping[str, str]) -> Response:
        """The answer to a GET; status 0 and an empty body if the connection ends without one.

        A kept connection may end while it is asked: then another one is, as the request was not heard (RFC 9112, 9.3.1).
        """
        lines = [f"GET {target} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        request = "\r\n".join(lines).encode("latin-1")
        free = self._free[host, port]
        while free:
            kept = free.pop()
            if kept.usable and (response := await _answer(kept, request, free)).status:
                return response
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            return Response(0)
        return await _answer(_Connection(reader, writer), request, free)

    def close(self) -> None:
        """Those that are free."""
        for free in self._free.values():
            while free:
                free.pop().writer.close()


async def _answer(connection: _Connection, request: bytes, free: list[_Connection]) -> Response:
    """What comes back; the connection is free then, if it may be used again."""
    try:
        connection.writer.write(request)
        first, headers, body = await _read(connection.reader)
        _version, status, _reason = _three(first)
    except (OSError, asyncio.IncompleteReadError, BadMessageError):
        connection.writer.close()
        return Response(0)
    if headers.get("connection") == "close":
        connection.writer.close()
    else:
        free.append(connection)
    return Response(int(status), body, headers)


async def _read(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """First line, headers and body of a message."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise BadMessageError(str(error)) from error
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        return first, headers, await _chunks(reader)
    return first, headers, await reader.readexactly(_length(headers.get("content-length", "0"), base=10))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body in pieces, each with its length before it (RFC 9112, 7.1); trailers are none of ours."""
    body = b""
    while length := _length((await reader.readuntil(b"\r\n")).decode("latin-1").partition(";")[0].strip(), base=16):
        body += await reader.readexactly(length)
        await reader.readexactly(len(b"\r\n"))
        if len(body) > MAX_BODY_BYTES:
            raise BadMessageError(f"a body of {len(body)} bytes and more")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


def _length(text: str, *, base: int) -> int:
    try:
        length = int(text, base)
    except ValueError as error:
        raise BadMessageError(f"a length of {text[:20]!r}") from error
    if not 0 <= length <= MAX_BODY_BYTES:
        raise BadMessageError(f"a body of {length} bytes")
    return length


def _three(line: str) -> tuple[str, str, str]:
    match line.split(" ", 2):
        case [one, two, three]:
            return one, two, three
        case [one, two]:
            return one, two, ""
    raise BadMessageError(line)
