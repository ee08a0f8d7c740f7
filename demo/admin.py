"""What an agent or the controller answers on its admin socket: tens of times cheaper than the command that shows it."""

import http.client
import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

TIMEOUT_S = 10.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(admin_socket: Path, path: str, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The decoded answer to GET `path`; raises OSError if nobody answers, RuntimeError with its words if it is refused."""
    with closing(_Connection(admin_socket, timeout_s)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    if response.status != http.client.OK:
        raise RuntimeError(f"{path}: {response.status} {body.decode(errors='replace')}")
    return json.loads(body)
