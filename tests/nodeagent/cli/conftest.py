"""An agent's admin socket with canned answers, and the command line run against it."""

import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from click.testing import CliRunner, Result

from nodeagent.cli.main import main


class Agent:
    """`answers` by path: a value to be sent as JSON, or (status, value). `asked` notes the requests."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str, dict[str, list[str]]]] = []

    def run(self, *arguments: str) -> Result:
        """Runs the command line against this agent."""
        return CliRunner().invoke(main, ["--run-dir", str(self.run_dir), *arguments], catch_exceptions=False)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    agent: Agent


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.agent.asked.append((self.command, parts.path, parse_qs(parts.query)))
        answer = self.server.agent.answers[parts.path]
        if parts.path == "/down":  # an agent that ends takes its socket with it
            (self.server.agent.run_dir / "admin.sock").unlink()
        status, value = answer if isinstance(answer, tuple) else (200, answer)
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the base class's names

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    with _Server(str(tmp_path / "admin.sock"), _Handler) as server:
        server.agent = made
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()
