"""Asks the running agent over its admin socket. Standard library only, so that a command starts fast."""

import http.client
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NoReturn, TypeVar
from urllib.parse import urlencode

import click
import msgspec

T = TypeVar("T")

EXIT_PROBLEM: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_RUNNING: Final = 3
SOCKET: Final = "admin.sock"
DEADLINE_S: Final = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def fetch(run_dir: Path, path: str, kind: type[T], *, method: str = "GET", timeout_s: float = DEADLINE_S, **query: object) -> T:
    """Asks and decodes; ends the command with a message where there is no answer."""
    with _request(run_dir, path, method, timeout_s, query) as response:
        try:
            return msgspec.json.decode(response.read(), type=kind)
        except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
            _fail(f"the agent's answer can't be read: {error}", EXIT_PROBLEM)


def fetch_text(run_dir: Path, path: str, *, timeout_s: float = DEADLINE_S) -> str:
    """Asks for a page of text; ends the command with a message where there is no answer."""
    with _request(run_dir, path, "GET", timeout_s, {}) as response:
        try:
            return response.read().decode()
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            _fail(f"the agent's answer can't be read: {error}", EXIT_PROBLEM)


def stream(run_dir: Path, path: str, **query: object) -> Iterator[str]:
    """The lines of an answer that may have no end."""
    with _request(run_dir, path, "GET", None, query) as response:
        while line := response.readline():
            yield line.decode("utf-8", "replace").rstrip("\n")


def wait_for_end(run_dir: Path, *, timeout_s: float) -> None:
    """Returns when nobody listens on the socket any more; ends the command with a message when that does not come."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if not runs(run_dir):
            return
        time.sleep(0.02)
    _fail("the agent did not end", EXIT_PROBLEM)


def runs(run_dir: Path) -> bool:
    """Whether an agent answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(run_dir / SOCKET)) == 0


@contextmanager
def _request(
    run_dir: Path, path: str, method: str, timeout_s: float | None, query: dict[str, object]
) -> Iterator[http.client.HTTPResponse]:
    file = run_dir / SOCKET
    text = urlencode({key: value for key, value in query.items() if value is not None})
    with closing(_UnixConnection(file, timeout_s)) as connection:
        try:
            connection.request(method, f"{path}?{text}" if text else path)
            response = connection.getresponse()
        except PermissionError:
            _fail(f"{file}: permission denied; the agent's socket belongs to root", EXIT_NOT_RUNNING)
        except TimeoutError:
            _fail(f"the agent did not answer within {timeout_s} s", EXIT_NOT_RUNNING)
        except (OSError, http.client.HTTPException) as error:
            _fail(f"no agent runs with the run directory {run_dir} ({error}); --run-dir says where its sockets are", EXIT_NOT_RUNNING)
        if response.status != http.HTTPStatus.OK:
            _refused(response)
        yield response


def _refused(response: http.client.HTTPResponse) -> NoReturn:
    body = response.read()
    try:
        text = str(msgspec.json.decode(body, type=dict[str, str])["error"])
    except (msgspec.MsgspecError, KeyError):
        text = f"the agent answered {response.status} {response.reason}"
    _fail(text, EXIT_USAGE if response.status == http.HTTPStatus.BAD_REQUEST else EXIT_PROBLEM)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"nodeagent: {message}", err=True)
    sys.exit(code)
