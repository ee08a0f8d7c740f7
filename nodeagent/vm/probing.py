"""One probe: asks the application as the kubelet would, past the mesh, and says what is wrong."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, Final, assert_never

import grpc
import grpc.aio

from meshapi.attendance import GRPC, Exec, HTTPGet, Probe, TCPSocket
from nodeagent.linux.errors import KernelError
from nodeagent.linux.programs import run

LOCAL: Final = "localhost"
NO_PROGRAMS: Final = "its group asks for a program to be run as root here, which `execProbes: true` in the machine's configuration allows"
_MAX_LINE: Final = 8192
_SERVING: Final = b"\x08\x01"
_GRPC_CHECK: Final = "/grpc.health.v1.Health/Check"
_MAX_WORDS: Final = 300


async def probe(asked: Probe, *, programs: bool) -> str | None:
    """What is wrong, in words; None if nothing is. `programs`: whether it may run any."""
    try:
        async with asyncio.timeout(asked.timeout_s):
            match asked.way:
                case HTTPGet():
                    return await _http(asked.way)
                case TCPSocket():
                    async with _connected(asked.way.host, asked.way.port, None):
                        return None
                case Exec():
                    return await _exec(asked.way, asked.timeout_s) if programs else NO_PROGRAMS
                case GRPC():
                    return await _grpc(asked.way)
            assert_never(asked.way)
    except TimeoutError:
        return f"no answer within {asked.timeout_s} s"
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, grpc.aio.AioRpcError) as error:
        return _words(error)


async def _http(asked: HTTPGet) -> str | None:
    """From 200 to 399 is well; redirections are not followed, and a certificate is not looked at, as the kubelet has it."""
    async with _connected(asked.host, asked.port, _any_certificate() if asked.tls else None) as (reader, writer):
        names = {name.lower() for name, _ in asked.headers}
        lines = [f"GET {asked.path or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in asked.headers), "Connection: close"]
        lines += [] if "host" in names else [f"Host: {asked.host or LOCAL}:{asked.port}"]
        lines += [] if "user-agent" in names else ["User-Agent: nodemesh-probe"]
        text = "\r\n".join([*lines, "", ""])
        # Checked by the controller, too; one that were taken over must not speak for the machine.
        if any("\r" in line or "\n" in line for line in lines):
            return "the probe is no request"
        writer.write(text.encode("ascii"))
        await writer.drain()
        line = await reader.readuntil(b"\n")
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        return "no HTTP answer"
    status = int(parts[1][:4])
    return None if 200 <= status < 400 else f"HTTP status {status}"


@asynccontextmanager
async def _connected(host: str, port: int, tls: ssl.SSLContext | None) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await _open(host, port, tls)
    try:
        yield reader, writer
    finally:
        # A reset rather than a goodbye: nobody waits for an application that does not read.
        writer.transport.abort()


async def _open(host: str, port: int, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Tries each address of this machine that the name has. Others are none of the probe's business: it goes past the mesh."""
    found = await asyncio.get_running_loop().getaddrinfo(host or LOCAL, port, type=socket.SOCK_STREAM)
    own = [str(place[0]) for family, _, _, _, place in found if _is_own(family, place)]
    if not own:
        raise ValueError(f"{host} is no address of this machine, and no other is probed")
    for address in own:
        try:
            return await asyncio.open_connection(address, port, ssl=tls, limit=_MAX_LINE)
        except OSError:
            if address == own[-1]:
                raise
    raise AssertionError("the last address returns or raises")


def _is_own(family: int, place: tuple[Any, ...]) -> bool:
    """Whether an address is this machine's: what goes to it comes from it. Nothing is sent for that."""
    if ip_address(str(place[0]).partition("%")[0]).is_loopback:
        return True
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(place)
        except OSError:
            return False
        return bool(asking.getsockname()[0] == place[0])


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _exec(asked: Exec, timeout_s: float) -> str | None:
    try:
        await asyncio.to_thread(run, asked.command, timeout_s=timeout_s)
    except KernelError as error:
        return _words(error)
    return None


async def _grpc(asked: GRPC) -> str | None:
    """The standard health service: its two messages have one field each, so they are written and read here."""
    name = asked.service.encode()
    if len(name) > 127:
        return "the service's name is too long"
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(f"{LOCAL}:{asked.port}", options=options) as channel:
        answer = await channel.unary_unary(_GRPC_CHECK, None, None)(request)
    return None if answer == _SERVING else "it says that it does not serve"


def _words(error: Exception) -> str:
    text = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error) or type(error).__name__
    return " ".join(text.split())[:_MAX_WORDS]
