"""Calls to the admin socket of a running controller."""

import http.client
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

TIMEOUT_S = 10.0


class NotRunningError(Exception):
    """No controller answers on the socket."""


class AdminError(Exception):
    """The controller refused; the text says why."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class AdminClient:
    """One call, one connection."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None) -> Any:
        """The decoded JSON answer; raises NotRunningError, or AdminError with the controller's own words."""
        target = f"{path}?{urlencode(query)}" if query else path
        connection = _UnixConnection(self._path)
        try:
            connection.request(
                method, target, msgspec.json.encode(body) if body is not None else None, {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotRunningError(f"no controller answers on {self._path}: {error}") from error
        finally:
            connection.close()
        try:
            answer = msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise AdminError(f"the controller answered {response.status} with no JSON") from error
        if response.status >= http.client.BAD_REQUEST:
            raise AdminError(answer["error"] if isinstance(answer, dict) and "error" in answer else f"status {response.status}")
        return answer
