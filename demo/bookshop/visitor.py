"""A visitor of the bookshop: HTTP requests from sockets that are made in the visitor's own network namespace, and what came of them."""

import http.client
import json
import socket
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from demo.bookshop.accounts import Account
from nodeagent.linux.namespaces import Namespace

TIMEOUT_S: Final = 15.0
WORKERS: Final = 4
DISTRUSTED: Final = "the certificate is not trusted"


@dataclass(frozen=True)
class Place:
    """Where requests go: an address, and the host that they name; with `tls`, by HTTPS."""

    address: str
    port: int
    host: str
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Answer:
    """The status is 0 where none came, and `error` says why."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    took_s: float = 0.0
    error: str = ""

    @property
    def said(self) -> Any:
        """What a service answered; empty if it was none of them."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    @property
    def seen(self) -> str:
        return self.error or str(self.status)


class Visitor:
    """Counts what it asks for and gets. To be used by one thread; a crowd has threads of its own."""

    def __init__(self, namespace_path: str) -> None:
        self._path = namespace_path
        self.account = Account()

    def get(self, place: Place, path: str = "/", **headers: str) -> Answer:
        """One request on a connection of its own; underscores in names of headers stand for dashes."""
        return self.crowd(place, 1, path=path, at_once=1, headers={name.replace("_", "-"): value for name, value in headers.items()})[0]

    def crowd(
        self, place: Place, count: int, *, path: str = "/", at_once: int = WORKERS, headers: Mapping[str, str] | None = None
    ) -> list[Answer]:
        """So many requests, over `at_once` connections, each in the order of its own."""
        shares = [len(range(worker, count, at_once)) for worker in range(min(at_once, count))]
        with ThreadPoolExecutor(len(shares), thread_name_prefix="visitor") as pool:
            answers = [answer for part in pool.map(lambda share: self._calls(place, share, path, headers or {}), shares) for answer in part]
        for answer in answers:
            self.account.make(place.host, answer.status)
        return answers

    def _calls(self, place: Place, count: int, path: str, headers: Mapping[str, str]) -> list[Answer]:
        connection = _Connection(self._path, place)
        try:
            return [_ask(connection, path, {"host": place.host, **headers}) for _ in range(count)]
        finally:
            connection.close()


def _ask(connection: "_Connection", path: str, headers: Mapping[str, str]) -> Answer:
    begin_s = time.monotonic()
    try:
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return Answer(0, took_s=time.monotonic() - begin_s, error=_words(error))
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, body, found, time.monotonic() - begin_s)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{DISTRUSTED}: {error.verify_message}"
    return f"{type(error).__name__}: {error}".rstrip(": ")


class _Connection(http.client.HTTPConnection):
    """Connects from another network namespace; again after it was closed."""

    def __init__(self, namespace_path: str, place: Place) -> None:
        super().__init__(place.address, place.port, timeout=TIMEOUT_S)
        self._namespace_path = namespace_path
        self._place = place

    def connect(self) -> None:
        family = socket.AF_INET6 if ":" in self._place.address else socket.AF_INET
        with Namespace.open(self._namespace_path) as namespace:
            made = namespace.run(socket.socket, family, socket.SOCK_STREAM)
        made.settimeout(TIMEOUT_S)
        try:
            made.connect((self._place.address, self._place.port))
            tls = self._place.tls
            self.sock = made if tls is None else tls.wrap_socket(made, server_hostname=self._place.host)
        except BaseException:
            made.close()
            raise


def statuses(answers: list[Answer]) -> Counter[str]:
    """How often which status came, or which error."""
    return Counter(answer.seen for answer in answers)
