"""A real Redis on a unix socket for the length of a block."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from demo.cluster import eventually


class RealRedis:
    """`url` is where to reach it; `stop` and `start` as an operator does."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "redis.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        eventually(self._answers, "Redis answers", timeout_s=20)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> "Redis":
        return Redis(unix_socket_path=str(self._socket))

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False


@contextmanager
def real_redis(directory: Path) -> Iterator[RealRedis]:
    found = RealRedis(directory)
    try:
        found.start()
        yield found
    finally:
        found.stop()
