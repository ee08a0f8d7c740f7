"""What floods is cut off, and the others notice nothing: their p99 and the proxy's memory stay where they were."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.nodeagent.ztunnel.proxy.attacks import flood, frames
from tests.nodeagent.ztunnel.proxy.attacks.peer import Peer
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, full_backlog, victim
from tests.nodeagent.ztunnel.proxy.mesh import echo, identity_of, server
from tests.nodeagent.ztunnel.proxy.stub import Judgement, until

ROOT = Path(__file__).parents[5]
FLOOD_S = 2.0
SAMPLES = 400
NOISE_S = 0.030
"""Less than this no p99 of a busy test machine means anything: its scheduler alone makes as much."""
MOST_RESIDENT_BYTES = 64 << 20
"""Of the whole process, whatever comes: mostly log entries that the agent has not taken yet, which are bounded by their number."""


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One victim for all: what withstands a flood is there for the next."""
    with victim(tmp_path_factory.mktemp("victim")) as made, server(made.served.side, echo):
        yield made


@pytest.mark.parametrize("kind", flood.ALL)
def test_a_flood_ends_its_own_connection_and_no_other(standing: Victim, kind: str) -> None:
    with standing.peer("bystander") as bystander:
        stream = bystander.open(standing.backend)
        assert bystander.status(stream) == 200
        with standing.peer() as flooder:
            assert flood.pour(flooder.connection, flood.ALL[kind](standing.backend.encode()), until_s=time.monotonic() + 5)
        assert bystander.echo(stream, b"still here")
    until(lambda: standing.served.agent.report().tunnels_in == 0)
    until(lambda: standing.served.agent.report().connections == 0)


@pytest.mark.parametrize("kinds", [flood.RESETS, flood.CONTROL], ids=["resets", "control"])
def test_others_are_served_as_before_and_memory_is_bounded(standing: Victim, kinds: dict[str, flood.Flood]) -> None:
    with standing.peer("bystander") as bystander:
        stream = bystander.open(standing.backend)
        assert bystander.status(stream) == 200
        _p99_s(bystander, stream)
        calm_s = _p99_s(bystander, stream)
        with _highest_resident_bytes(standing) as highest, _flooding(standing, *kinds) as flooder:
            flooded_s = _p99_s(bystander, stream, while_=flooder)
            output, _ = flooder.communicate(timeout=30)
        calm_s = max(calm_s, _p99_s(bystander, stream))
        ended = json.loads(output)
        assert flooder.returncode == 0
        assert all(ended.values()), f"every flood was cut off at least once: {ended}"
        assert flooded_s < max(2 * calm_s, NOISE_S), f"p99 {flooded_s * 1000:.1f} ms, in calm {calm_s * 1000:.1f} ms"
        assert highest[0] < MOST_RESIDENT_BYTES
    until(lambda: standing.served.agent.report().tunnels_in == 0)
    until(lambda: standing.served.agent.report().connections == 0)


def test_a_stream_that_is_reset_leaves_nothing_behind_it(target: Victim) -> None:
    """Neither a connection to the application that is under way, nor a question that the agent still thinks about."""
    target.served.script.verdict = lambda asked: None if asked.destination.endswith(":81") else Judgement()
    with full_backlog(target.served.side) as port, target.peer() as peer:
        address = target.served.address
        streams = [peer.open(f"{address}:{port}") for _ in range(40)] + [peer.open(f"{address}:81") for _ in range(40)]
        until(lambda: target.served.agent.report().connections == 80)
        assert target.served.agent.report().waiting_questions == 1
        peer.send(b"".join(frames.reset(stream) for stream in streams))
        until(lambda: target.served.agent.report().connections == 0, deadline_s=1)
        until(lambda: target.served.agent.report().waiting_questions == 0, deadline_s=1)
        assert peer.is_open()


def _p99_s(bystander: Peer, stream: int, *, while_: subprocess.Popen[str] | None = None) -> float:
    """The 99th percentile of round trips to the application and back; `while_`: as long as that runs."""
    took_s: list[float] = []
    while len(took_s) < SAMPLES if while_ is None else while_.poll() is None:
        begin_s = time.perf_counter()
        assert bystander.echo(stream, b"ping")
        took_s.append(time.perf_counter() - begin_s)
    return statistics.quantiles(took_s, n=100)[98]


@contextmanager
def _flooding(target: Victim, *kinds: str) -> Iterator[subprocess.Popen[str]]:
    credentials = target.directory / "flooder.pem"
    identity = target.authority.issue(identity_of("flooder"))
    credentials.touch(mode=0o600)
    credentials.write_text(identity.chain + identity.key)
    command = [sys.executable, "-m", flood.__name__, target.served.address, target.backend, str(credentials), str(FLOOD_S), *kinds]
    process = subprocess.Popen(["ip", "netns", "exec", target.stranger.name, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _highest_resident_bytes(target: Victim) -> Iterator[list[int]]:
    """Watches while the block runs; its value is final behind it."""
    process = psutil.Process(target.served.process.pid)
    highest, over = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            highest[0] = max(highest[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        over.set()
        thread.join()
