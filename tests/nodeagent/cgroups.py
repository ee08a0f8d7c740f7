"""A cgroup of a test's own, and processes that run in it; gone when the test is."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nodeagent.linux.cgroups import of_process, root


@contextmanager
def made(name: str = "") -> Iterator[Path]:
    """Makes one directly below the root and gives its directory; ends what runs in it at the end."""
    path = root() / (name or f"nm-{secrets.token_hex(4)}")
    path.mkdir()
    try:
        yield path
    finally:
        remove(path)


@contextmanager
def entered() -> Iterator[str]:
    """Puts this process into one of its own, so that sockets which it opens are of that; gives its path below the mount."""
    with made() as path, inside(path):
        yield f"/{path.name}"


def remove(path: Path) -> None:
    """Ends what runs in it, then takes it away; fine if it is gone."""
    deadline = time.monotonic() + 10
    while path.is_dir():
        for pid in (path / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(OSError):
            path.rmdir()
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(cgroup: Path, *command: str, namespace: str = "", timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    """Runs a command in the cgroup (and in a network namespace that has a name), from its first instruction on."""
    entering = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup)]
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    return subprocess.run([*entering, *inside, *command], check=False, capture_output=True, text=True, timeout=timeout_s)


@contextmanager
def inside(cgroup: Path) -> Iterator[None]:
    """This process is in the cgroup, and so is every socket that it makes, as long as the block lasts."""
    former = root() / of_process(os.getpid()).lstrip("/")
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (former / "cgroup.procs").write_text(str(os.getpid()))
