"""Small HTTP servers on loopback that answer with what they were asked, and fail or wait as they are told."""

import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream:
    """One server: how often it was asked, by path and in all; `failing`: the status with which it answers everything."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.failing = 0
        self.connections = 0
        self.seen: Counter[str] = Counter()

    @property
    def asked(self) -> int:
        return self.seen.total()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        return  # a client that left: Envoy after a timeout


@contextmanager
def upstream(name: str, tls: ssl.SSLContext | None = None) -> Iterator[Upstream]:
    """A server for the length of a block. `x-fail: 2` has the first two requests with one `x-id` get 503; `x-wait-s` has it wait."""
    tries: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are two writes: the second would wait for the first one's acknowledgement.
        disable_nagle_algorithm = True

        def setup(self) -> None:
            found.connections += 1
            super().setup()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            found.seen[self.path.partition("?")[0]] += 1
            time.sleep(float(self.headers.get("x-wait-s", 0)))
            tries[self.headers.get("x-id", "")] += 1
            failed = tries[self.headers.get("x-id", "")] <= int(self.headers.get("x-fail", 0))
            headers = {key.lower(): value for key, value in self.headers.items()}
            peer = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
            sni = getattr(self.connection, "asked_for", "")
            said = {
                "client": [name for _, name in (peer or {}).get("subjectAltName", ())],
                "sni": sni,
                "upstream": name,
                "method": self.command,
                "path": self.path,
                "headers": headers,
                "body": body.decode(),
            }
            self._send(found.failing or (503 if failed else 200), json.dumps(said).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("x-old", "from the server")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = _answer  # noqa: N815 -- the library's names

        def log_message(self, *_: Any) -> None:
            return

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        tls.sni_callback = lambda socket, name, _context: setattr(socket, "asked_for", name)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    found = Upstream(name, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name=f"upstream {name}")
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
