"""The connection's window comes back from every stream that ends early: what is thrown away for one is never missing to the others."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent.ztunnel.protocol import Settings
from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind
from tests.nodeagent.ztunnel.proxy.attacks.peer import Peer
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, hold, victim
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, echo, server
from tests.nodeagent.ztunnel.proxy.stub import Judgement, until

CONNECTION_WINDOW_BYTES = 16 << 20
PAYLOAD = bytes(16384)
FRAMES_PER_STREAM = 16
STREAMS = CONNECTION_WINDOW_BYTES * 3 // 2 // (len(PAYLOAD) * FRAMES_PER_STREAM)
DENIED_PORT = 81
STALLED_PORT = BACKEND_PORT + 1


def _denied(target: Victim, peer: Peer) -> None:
    """Data sent with the request, which is then denied."""
    stream = peer.open(f"{target.served.address}:{DENIED_PORT}")
    peer.send(frames.data(stream, PAYLOAD) * FRAMES_PER_STREAM)
    assert peer.status(stream) == 401


def _foreign(target: Victim, peer: Peer) -> None:
    """The same with an authority that is not the pod's."""
    stream = peer.open("10.77.0.9:80")
    peer.send(frames.data(stream, PAYLOAD) * FRAMES_PER_STREAM)
    assert peer.status(stream) == 400


def _reset_unread(target: Victim, peer: Peer) -> None:
    """Data that the application does not read, and then a reset."""
    stream = peer.open(f"{target.served.address}:{STALLED_PORT}")
    assert peer.status(stream) == 200
    peer.send(frames.data(stream, PAYLOAD) * FRAMES_PER_STREAM + frames.reset(stream))


def _cut_by_a_verdict(target: Victim, peer: Peer) -> None:
    """Data for a connection that a verdict has just closed."""
    stream = peer.open(target.backend)
    assert peer.status(stream) == 200
    assert peer.echo(stream, b"here")
    target.served.script.verdict = lambda _: Judgement(allow=False)
    target.served.agent.answer_again()
    peer.send(frames.data(stream, PAYLOAD) * FRAMES_PER_STREAM)
    peer.wait_for(lambda one: one.kind == Kind.RST_STREAM and one.stream == stream)
    target.served.script.verdict = _judge
    target.served.agent.answer_again()
    until(lambda: target.served.agent.report().connections == 0)


def _judge(asked: object) -> Judgement:
    return Judgement(allow=not str(getattr(asked, "destination", "")).endswith(f":{DENIED_PORT}"))


@pytest.mark.parametrize("waste", [_denied, _foreign, _reset_unread, _cut_by_a_verdict], ids=lambda waste: str(waste.__name__).strip("_"))
def test_the_window_comes_back(tmp_path: Path, waste: Callable[[Victim, Peer], None]) -> None:
    over = threading.Event()
    with (
        victim(tmp_path, Settings(), workers=1) as target,
        server(target.served.side, echo),
        server(target.served.side, lambda _: hold(over), port=STALLED_PORT),
        target.peer() as peer,
    ):
        # The kernel's own buffers would swallow what an application does not read.
        target.served.side.shell("sysctl", "-qw", "net.ipv4.tcp_wmem=4096 16384 65536", "net.ipv4.tcp_rmem=4096 16384 65536")
        target.served.script.verdict = _judge
        for _ in range(STREAMS):
            waste(target, peer)
            # Read what comes: window updates among it.
            assert peer.is_open()
        stream = peer.open(target.backend)
        assert peer.status(stream) == 200
        assert peer.echo(stream, bytes(60000))
        over.set()
