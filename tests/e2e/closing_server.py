"""A server in a pod that ends connections as it is told: the first line says how, over TCP or as the path of a request.

`close-N`: N bytes, then the end. `shut-N`: N bytes, the end of its side, and the rest is read. `half-N`: N bytes once the client has
ended its side. `reset-N`: N bytes, and a reset once the client says one line more.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from demo.topology import Pod
from nodeagent.linux.namespaces import Namespace
from tests.e2e.mesh import LINGER

PORT = 7777
GREETING = b"hello, I speak first\n"
_WAIT_S = 15.0


@contextmanager
def serving(pod: Pod, *, greeting: bool = False, port: int = PORT) -> Iterator[None]:
    """For the length of a block; with `greeting` it speaks first."""
    with Namespace.open(f"/run/netns/{pod.namespace}") as namespace:
        listener = namespace.run(socket.socket, socket.AF_INET6, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", port))
        listener.listen(50)
        accepting = threading.Thread(target=_accept, args=(listener, greeting), name=f"closing server of {pod.name}")
        accepting.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket, greeting: bool) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, greeting), name="closing server's connection", daemon=True).start()


def _serve(connection: socket.socket, greeting: bool) -> None:
    with connection, suppress(OSError):
        connection.settimeout(_WAIT_S)
        if greeting:
            connection.sendall(GREETING)
        _answer(connection)


def _answer(connection: socket.socket) -> None:
    lines = connection.makefile("rb")
    line = lines.readline().decode()
    if line.startswith("GET "):
        line = line.split()[1].removeprefix("/")
        while lines.readline() not in {b"\r\n", b""}:
            pass
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
    how, _, size = line.strip().partition("-")
    if how == "half":
        while lines.read(65536):
            pass
    connection.sendall(b"x" * int(size or 0))
    if how == "reset":
        lines.readline()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    if how == "shut":
        connection.shutdown(socket.SHUT_WR)
        while lines.read(65536):
            pass
