"""Brings a port of this machine's loopback into a network namespace, where a node's agent finds the API server."""

import socket
import threading
from contextlib import suppress
from typing import Self

from nodeagent.linux.namespaces import Namespace


class Forwarder:
    """Listens on loopback in `namespace`; each connection is joined to one to `target` here. Use as a context manager."""

    def __init__(self, namespace: str, target: int) -> None:
        self._target = target
        self._open: set[socket.socket] = set()
        self.refusing = False
        with Namespace.open(f"/run/netns/{namespace}") as inside:
            self._listening = inside.run(socket.create_server, ("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="forwarder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        self._thread.join(timeout=10)

    def cut(self) -> None:
        """Ends all connections."""
        for one in tuple(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if self.refusing:
                    near.close()
                    continue
                threading.Thread(target=self._join, args=(near,), name="forwarded", daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as far:
            self._open |= {near, far}
            back = threading.Thread(target=_copy, args=(far, near), name="forwarded back", daemon=True)
            back.start()
            _copy(near, far)
            back.join()
            self._open -= {near, far}


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        source.shutdown(socket.SHUT_RD)
