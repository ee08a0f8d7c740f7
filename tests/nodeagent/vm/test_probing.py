"""Probes against real servers on loopback: what is well, what is not, and that nothing an application does breaks them."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from meshapi.attendance import GRPC, Exec, HTTPGet, Probe, TCPSocket
from nodeagent.vm import probing
from nodeagent.vm.probing import NO_PROGRAMS
from tests.nodeagent.identity.pki import authority

SAID: list[bytes] = []


async def probe(asked: Probe, *, programs: bool = True) -> str | None:
    return await probing.probe(asked, programs=programs)


@asynccontextmanager
async def answering(answer: bytes | None, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that reads a request and answers so; None: never."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if answer is None:
                await ended.wait()
            else:
                SAID.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
        ended.set()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.0 204\r\n\r\n", None),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", None),
        (b"HTTP/1.1 503 Not now\r\n\r\n", "HTTP status 503"),
        (b"HTTP/1.1 404 Gone\r\n\r\n", "HTTP status 404"),
        (b"HTTP/1.1 99999999 x\r\n\r\n", "HTTP status 9999"),
        (b"SSH-2.0-x\r\n", "no HTTP answer"),
        (b"HTTP/1.1\r\n", "no HTTP answer"),
        (b"", "0 bytes read"),
        (b"x" * 20_000, "limit"),
    ],
)
async def test_http(answer: bytes, problem: str | None) -> None:
    async with answering(answer) as port:
        found = await probe(Probe(HTTPGet(port, "/healthz", headers=(("X-Probe", "yes"),)), timeout_s=5))
    assert (found is None) if problem is None else found is not None
    assert problem is None or problem in (found or "") or "exceed" in (found or "")
    assert SAID[-1].startswith(b"GET /healthz HTTP/1.1\r\nX-Probe: yes\r\n")
    assert f"Host: localhost:{port}".encode() in SAID[-1]


async def test_https_whatever_its_certificate(tmp_path: Path) -> None:
    key, certificate = authority("x", time.time()).server(time.time() - 60)
    (tmp_path / "pair").write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair")
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n", tls=context) as port:
        assert await probe(Probe(HTTPGet(port, tls=True), timeout_s=5)) is None


@pytest.mark.parametrize("way", [HTTPGet, TCPSocket, GRPC])
async def test_nobody_listens(way: Callable[[int], HTTPGet | TCPSocket | GRPC]) -> None:
    async with answering(b"") as port:
        pass
    assert await probe(Probe(way(port), timeout_s=5)) is not None


async def test_who_never_answers_has_until_the_deadline() -> None:
    async with answering(None) as port:
        begun_s = time.monotonic()
        assert await probe(Probe(HTTPGet(port), timeout_s=1)) == "no answer within 1 s"
        assert 0.9 < time.monotonic() - begun_s < 8
        assert await probe(Probe(TCPSocket(port), timeout_s=5)) is None, "it listens"


async def test_a_request_can_not_be_split() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        assert await probe(Probe(HTTPGet(port, "/", headers=(("a", "b\r\nc: d"),)), timeout_s=5)) == "the probe is no request"


async def test_commands() -> None:
    assert await probe(Probe(Exec(("/bin/true",)), timeout_s=10)) is None
    assert "exit code 1" in (await probe(Probe(Exec(("/bin/false",)), timeout_s=10)) or "")
    assert "because" in (await probe(Probe(Exec(("/bin/sh", "-c", "echo because >&2; exit 3")), timeout_s=10)) or "")
    assert await probe(Probe(Exec(("/no/such/program",)), timeout_s=10)) is not None
    assert await probe(Probe(Exec(("/bin/sleep", "60")), timeout_s=1)) is not None


async def test_programs_are_run_where_the_machine_s_owner_lets_them(tmp_path: Path) -> None:
    asked = Probe(Exec(("/bin/touch", str(tmp_path / "ran"))), timeout_s=10)
    assert await probe(asked, programs=False) == NO_PROGRAMS
    assert not (tmp_path / "ran").exists()
    assert await probe(asked) is None
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "169.254.169.254", "0.0.0.0", "::"])
async def test_only_this_machine_is_probed(host: str) -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        for way in (HTTPGet(port, host=host), TCPSocket(port, host)):
            assert "no other is probed" in (await probe(Probe(way, timeout_s=5)) or "")
        assert await probe(Probe(HTTPGet(port, host="127.0.0.1"), timeout_s=5)) is None


@pytest.mark.parametrize(("answer", "well"), [(b"\x08\x01", True), (b"\x08\x02", False), (b"", False)])
async def test_grpc_health(answer: bytes, *, well: bool) -> None:
    asked: list[bytes] = []

    async def check(body: bytes, _context: object) -> bytes:
        asked.append(body)
        return answer

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        assert (await probe(Probe(GRPC(port, "shop"), timeout_s=10)) is None) == well
    finally:
        await server.stop(None)
    assert asked == [b"\x0a\x04shop"]
