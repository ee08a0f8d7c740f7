"""What is held open costs bounded memory: idle tunnels, slow handshakes, windows that never open, applications that never read."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from nodeagent.ztunnel.protocol import Settings
from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind
from tests.nodeagent.ztunnel.proxy.attacks.peer import HBONE_PORT, INITIAL_WINDOW_SIZE, Peer
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, hold, victim
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, echo, server
from tests.nodeagent.ztunnel.proxy.stub import until

MANY = 2000
MOST_BYTES_PER_TUNNEL = 16 << 10
MOST_BYTES_PER_HANDSHAKE = 24 << 10
MANY_HANDSHAKES = Settings(handshake_deadline_s=3.0)
MOST_HELD_BYTES = 24 << 20
"""Of one peer that takes nothing: its own windows' worth, and what is sealed for it."""


@contextmanager
def _served(target: Victim) -> Iterator[None]:
    """A member of the mesh is served before, and still behind, what the block does."""
    with server(target.served.side, echo, port=BACKEND_PORT + 1), target.peer("bystander") as bystander:
        stream = bystander.open(f"{target.served.address}:{BACKEND_PORT + 1}")
        assert bystander.status(stream) == 200
        yield
        assert bystander.echo(stream, b"still here")


def test_thousands_of_idle_tunnels_cost_little_each(target: Victim) -> None:
    context = target.context()
    # The first ones make what all share: buffers, tables, the allocator's arenas.
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool, _served(target):

        def open_many(count: int) -> None:
            for peer in pool.map(lambda connection: Peer.over(connection, context).greet(), [target.dial() for _ in range(count)]):
                stack.enter_context(peer)

        open_many(200)
        before_bytes = target.resident_bytes()
        open_many(MANY)
        assert target.served.agent.report().tunnels_in == MANY + 201
        assert (target.resident_bytes() - before_bytes) / MANY < MOST_BYTES_PER_TUNNEL


def test_thousands_of_slow_handshakes_cost_little_each_and_end(tmp_path: Path) -> None:
    with victim(tmp_path, MANY_HANDSHAKES) as target, ExitStack() as stack, _served(target):
        before_bytes = target.resident_bytes()
        for _ in range(MANY):
            connection = stack.enter_context(target.dial())
            # The head of a ClientHello of 512 bytes; the rest never comes.
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        until(lambda: target.served.agent.report().tunnels_in > MANY / 2)
        assert (target.resident_bytes() - before_bytes) / MANY < MOST_BYTES_PER_HANDSHAKE
        until(lambda: target.served.agent.report().tunnels_in == 1, deadline_s=8)


def _send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(bytes(1 << 16))


@pytest.mark.parametrize("kind", ["windows stay shut", "nothing is read"])
def test_a_peer_that_takes_nothing_holds_little(target: Victim, kind: str) -> None:
    window = 0 if kind == "windows stay shut" else 1 << 30
    with _served(target), server(target.served.side, _send_for_ever), target.begin() as peer:
        peer.greet((INITIAL_WINDOW_SIZE, window))
        before_bytes = target.resident_bytes()
        for _ in range(100):
            peer.open(target.backend)
        until(lambda: target.served.agent.report().connections == 101)
        until(lambda: _is_at_rest(target))
        assert target.resident_bytes() - before_bytes < MOST_HELD_BYTES


def _is_at_rest(target: Victim) -> bool:
    """Nothing moves between two looks, each of which comes behind all that moved before it."""
    looks = [sum(entry.received_bytes for entry in target.served.agent.connections()) for _ in range(2)]
    return looks[0] == looks[1]


def test_applications_that_read_nothing_are_held_to_the_bound_of_the_process(tmp_path: Path) -> None:
    over = threading.Event()
    bound = 2 << 20
    with (
        victim(tmp_path, Settings(max_buffered_bytes=bound)) as target,
        _served(target),
        server(target.served.side, lambda _: hold(over)),
        target.peer() as peer,
    ):
        # The kernel's own buffers would swallow it all.
        target.served.side.shell("sysctl", "-qw", "net.ipv4.tcp_wmem=4096 16384 65536", "net.ipv4.tcp_rmem=4096 16384 65536")
        streams = [peer.open(target.backend) for _ in range(8)]
        assert [peer.status(stream) for stream in streams] == [200] * 8
        before_bytes = target.resident_bytes()
        for stream in streams:
            # Far more than the application's socket takes, less than the stream's window.
            for _ in range(64):
                peer.send(frames.data(stream, bytes(16384)))
        broken = peer.wait_for(lambda one: one.kind == Kind.RST_STREAM)
        assert broken.stream in streams
        report = target.served.agent.report()
        over.set()
        assert report.shed["buffered_bytes"] >= 1
        # Each kept payload may take twice its size while it grows.
        assert report.resident_bytes - before_bytes < 2 * bound + (8 << 20)
        assert peer.is_open()


def test_a_source_over_its_share_of_tunnels_takes_no_other_s(tmp_path: Path) -> None:
    second = "10.77.0.3"
    with victim(tmp_path, Settings(max_tunnels_per_source=5)) as target, server(target.served.side, echo), ExitStack() as stack:
        target.stranger.shell("ip", "address", "add", f"{second}/24", "dev", "eth0")
        for _ in range(5):
            stack.enter_context(target.peer())
        with pytest.raises(OSError, match=r"reset|EOF|closed|Broken|ended"):
            target.peer()
        other = stack.enter_context(target.stranger.open_socket(socket.AF_INET))
        other.bind((second, 0))
        other.connect((target.served.address, HBONE_PORT))
        with Peer.over(other, target.context()) as peer:
            assert peer.greet().ask(target.backend) == 200
