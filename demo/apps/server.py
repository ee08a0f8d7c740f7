"""A small service: HTTP/1.1 on one port (who answered, who it saw as the client), a line echo over TCP on another."""

import argparse
import asyncio
import contextlib
import json


async def serve_http(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with JSON: `pod`, `client` (the address the connection came from) and the request line."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            request = head.split(b"\r\n", 1)[0].decode("latin-1")
            body = json.dumps({"pod": name, "client": writer.get_extra_info("peername")[0], "request": request}).encode() + b"\n"
            length = len(body)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (length, body))
            await writer.drain()
    writer.close()


async def serve_echo(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends every line back with the pod's name before it."""
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(name.encode() + b" " + line)
            await writer.drain()
    writer.close()


async def main() -> None:
    """Serves until the process is ended; prints a line when it listens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--http", type=int, default=8080)
    parser.add_argument("--tcp", type=int, default=9000)
    options = parser.parse_args()
    http = await asyncio.start_server(lambda r, w: serve_http(options.name, r, w), host=None, port=options.http)
    echo = await asyncio.start_server(lambda r, w: serve_echo(options.name, r, w), host=None, port=options.tcp)
    print(f"{options.name} listens", flush=True)
    async with http, echo:
        await asyncio.gather(http.serve_forever(), echo.serve_forever())


if __name__ == "__main__":
    asyncio.run(main())
