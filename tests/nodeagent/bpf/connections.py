"""Connections between two network namespaces that look like the proxy's, from sockets of this process."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from meshapi.wire import PROXY_MARK
from nodeagent.linux.sockets import listener
from tests.nodeagent.pods import Side

SO_COOKIE = 57
BYTES = 200_000


@contextmanager
def connection(from_side: Side, to: Side, family: int, port: int, mark: int = PROXY_MARK) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, each bearing the mark from its first packet on."""
    with ExitStack() as opened:
        wildcard = "::" if family == socket.AF_INET6 else "0.0.0.0"
        listening = opened.enter_context(to.namespace.run(listener, wildcard, port, mark=mark))
        listening.settimeout(5)
        dialling = opened.enter_context(closing(from_side.open_socket(family)))
        dialling.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        dialling.connect((to.addresses[family], port))
        accepted = opened.enter_context(closing(listening.accept()[0]))
        yield dialling, accepted


def carry(sender: socket.socket, receiver: socket.socket, size_bytes: int = BYTES) -> None:
    """Sends that much and reads all of it, in parts that the sockets' buffers hold."""
    while size_bytes:
        part = min(size_bytes, 50_000)
        sender.sendall(bytes(part))
        size_bytes -= part
        while part:
            part -= len(receiver.recv(part))


def cookie(made: socket.socket) -> int:
    return int.from_bytes(made.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
