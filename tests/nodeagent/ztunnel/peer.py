"""The proxy's end of the decision socket, driven by a test."""

import array
import asyncio
import socket
import struct
from collections.abc import Sequence

from nodeagent.ztunnel.protocol import FromProxy, ToProxy, decode_to_proxy, encode


class Peer:
    """The proxy's end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, message: FromProxy, fds: Sequence[int] = ()) -> None:
        body = encode(message)
        frame = struct.pack("!I", len(body)) + body
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            frame = frame[self._socket.sendmsg([frame[:4]], rights) :]
        await self._loop.sock_sendall(self._socket, frame)

    async def receive(self) -> ToProxy:
        async with asyncio.timeout(5):
            (length,) = struct.unpack("!I", await self._exactly(4))
            return decode_to_proxy(await self._exactly(length))

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = await self._loop.sock_recv(self._socket, count - len(data))
            if not part:
                raise EOFError
            data += part
        return data
