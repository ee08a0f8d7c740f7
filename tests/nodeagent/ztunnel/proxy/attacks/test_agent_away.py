"""While its agent is away, hangs or talks nonsense the proxy keeps what it knows, lets nothing new in, and catches up afterwards."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from nodeagent.ztunnel.protocol import AskVerdict, Holds, Settings
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind
from tests.nodeagent.ztunnel.proxy.attacks.peer import Ended, Peer
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, victim
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, echo, identity_of, server
from tests.nodeagent.ztunnel.proxy.stub import Judgement, until

DENY = Judgement(allow=False, reason="denied by the test")
UNKNOWN_PORT = BACKEND_PORT + 1


@contextmanager
def _nonsense_agent(path: Path, answer: bytes) -> Iterator[threading.Event]:
    """Listens as the agent does, and says only `answer` to each hello; the event: a proxy has dialled."""
    dialled = threading.Event()
    path.unlink(missing_ok=True)
    sessions: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    session, _ = listening.accept()
                except OSError:
                    return
                sessions.append(session)
                with suppress(OSError):  # a proxy that waited too long has gone, and dials again
                    session.sendall(answer)
                    dialled.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield dialled
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    for session in sessions:
        session.close()


def test_an_agent_that_hangs_behind_the_accept_is_dialled_again(target: Victim) -> None:
    path = target.served.directory / "decisions.sock"
    with server(target.served.side, echo), target.peer() as peer:
        target.served.agent.stop()
        path.unlink()
        with socket.socket(socket.AF_UNIX) as hung:
            hung.bind(str(path))
            hung.listen()
            hung.settimeout(5)
            first, _ = hung.accept()
            hung.settimeout(13)
            with first, hung.accept()[0]:
                path.unlink()
        target.served.start_agent()
        _close_held(target)
        assert peer.ask(target.backend) == 200


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff\xff\xff\xff",
        _frame(b"{"),
        _frame(b'{"type":"open_sesame"}'),
        _frame(b'{"type":"welcome","protocol":99,"settings":{}}'),
        _frame(b'{"type":"verdict","id":1,"allow":true,"holds":"any_source","reason":"","attributes":{}}'),
        _frame(b'{"type":"synced"}'),
        b"HTTP/1.1 200 OK\r\n\r\n" * 10,
    ],
    ids=["silent", "endless", "cut off", "unknown", "future", "uninvited verdict", "uninvited synced", "another protocol"],
)
def test_an_agent_that_talks_nonsense_opens_nothing_and_closes_nothing(tmp_path: Path, answer: bytes) -> None:
    settings = Settings(decision_deadline_s=0.3)
    with (
        victim(tmp_path, settings, workers=1) as target,
        server(target.served.side, echo),
        server(target.served.side, echo, port=UNKNOWN_PORT) as unknown,
    ):
        with target.peer() as peer:
            held = peer.open(target.backend)
            assert peer.status(held) == 200
            target.served.agent.stop()
            with _nonsense_agent(target.served.directory / "decisions.sock", answer) as dialled:
                assert dialled.wait(15)
                assert peer.ask(f"{target.served.address}:{UNKNOWN_PORT}") == 503
                assert peer.ask(target.backend) == 200, "what is held serves new connections"
                assert peer.echo(held, b"still here")
            target.served.start_agent()
            _close_held(target)
            assert peer.ask(f"{target.served.address}:{UNKNOWN_PORT}") == 200
            assert peer.echo(held, b"and behind it")
        until(lambda: len(unknown) == 1)


def test_a_question_that_waits_is_asked_again_of_the_agent_that_comes_back(target: Victim) -> None:
    with server(target.served.side, echo) as seen, target.peer() as peer:
        target.served.script.verdict = lambda _: None
        stream = peer.open(target.backend, then=b"patience")
        until(lambda: len(target.questions()) == 1)
        target.served.script.verdict = lambda _: Judgement()
        target.served.restart_agent()
        _close_held(target)
        assert peer.status(stream) == 200
        assert peer.wait_for(lambda one: one.kind == Kind.DATA).payload == b"patience"
        assert len(seen) == 1


def test_an_agent_that_dies_again_and_again_costs_no_open_connection(target: Victim) -> None:
    with server(target.served.side, echo), target.peer() as peer:
        stream = peer.open(target.backend)
        assert peer.status(stream) == 200
        descriptors = _open_descriptors(target)
        for _ in range(10):
            target.served.restart_agent()
            _close_held(target)
            assert peer.echo(stream, b"still here")
        assert [one.peer for one in target.questions()] == [identity_of("client")], "what is held is asked again"
        until(lambda: _open_descriptors(target) <= descriptors)


def test_denied_while_the_agent_was_away_is_closed_when_it_is_back(target: Victim) -> None:
    with server(target.served.side, echo), target.peer() as peer, target.peer("other") as other:
        streams = {one: one.open(target.backend) for one in (peer, other)}
        assert [one.status(stream) for one, stream in streams.items()] == [200, 200]
        target.served.script.verdict = lambda asked: Judgement() if asked.peer == identity_of("other") else DENY
        target.served.restart_agent()
        _close_held(target)
        _is_reset(peer, streams[peer])
        assert other.echo(streams[other], b"not mine")
        assert peer.ask(target.backend) == 401
        assert peer.is_open()


def test_a_verdict_that_turns_closes_every_stream_on_it_within_a_second_and_no_other(target: Victim) -> None:
    with server(target.served.side, echo), target.peer() as peer, target.peer("other") as other:
        streams = [peer.open(target.backend) for _ in range(50)]
        assert [peer.status(stream) for stream in streams] == [200] * 50
        stays = other.open(target.backend)
        assert other.status(stays) == 200
        target.served.script.verdict = lambda asked: Judgement() if asked.peer == identity_of("other") else DENY
        target.served.agent.answer_again()
        for stream in streams:
            _is_reset(peer, stream)
        assert other.echo(stays, b"not mine")
        until(lambda: target.served.agent.report().connections == 1)


def test_a_verdict_that_narrows_closes_other_sources_unless_they_are_allowed_themselves(tmp_path: Path) -> None:
    allowed, forbidden = "10.77.0.3", "10.77.0.4"
    # Workers share nothing: one of them holds what any source was allowed.
    with victim(tmp_path, workers=1) as target, server(target.served.side, echo), target.peer() as first:
        streams = {first: first.open(target.backend)}
        assert first.status(streams[first]) == 200
        for source in (allowed, forbidden):
            target.stranger.shell("ip", "address", "add", f"{source}/24", "dev", "eth0")
            connection = target.stranger.open_socket(socket.AF_INET)
            connection.bind((source, 0))
            connection.connect((target.served.address, 15008))
            peer = Peer.over(connection, target.context()).greet()
            streams[peer] = peer.open(target.backend)
            assert peer.status(streams[peer]) == 200
        assert len(target.questions()) == 1
        target.served.script.verdict = lambda asked: Judgement(allow=asked.source != forbidden, holds=Holds.THIS_SOURCE)
        target.served.agent.answer_again()
        _, second, third = streams
        _is_reset(third, streams[third])
        assert first.echo(streams[first], b"asked for first")
        assert second.echo(streams[second], b"asked for on its own")
        asked = [one for one in target.served.agent.questions(AskVerdict) if isinstance(one, AskVerdict)]
        assert sorted(one.source for one in asked)[1:] == [allowed, forbidden]
        second.close()
        third.close()


def test_a_narrowed_verdict_that_the_agent_does_not_follow_up_closes_at_the_deadline(tmp_path: Path) -> None:
    second = "10.77.0.3"
    with victim(tmp_path, Settings(decision_deadline_s=0.5), workers=1) as target, server(target.served.side, echo), target.peer() as first:
        stream = first.open(target.backend)
        assert first.status(stream) == 200
        target.stranger.shell("ip", "address", "add", f"{second}/24", "dev", "eth0")
        connection = target.stranger.open_socket(socket.AF_INET)
        connection.bind((second, 0))
        connection.connect((target.served.address, 15008))
        with Peer.over(connection, target.context()).greet() as other:
            standing = other.open(target.backend)
            assert other.status(standing) == 200
            target.served.script.verdict = lambda asked: Judgement(holds=Holds.THIS_SOURCE) if asked.source != second else None
            target.served.agent.answer_again()
            _is_reset(other, standing, within_s=1.5)
        assert first.echo(stream, b"asked for first")


def _is_reset(peer: Peer, stream: int, *, within_s: float = 1.0) -> None:
    """Fails unless the stream is reset in time, and the connection is not ended for it."""
    try:
        peer.wait_for(lambda one: one.kind == Kind.RST_STREAM and one.stream == stream, within_s=within_s)
    except Ended:
        pytest.fail("the whole connection was ended")


def _open_descriptors(target: Victim) -> int:
    return psutil.Process(target.served.process.pid).num_fds()


def _close_held(target: Victim) -> None:
    """The descriptors that the proxy gave back to the new agent."""
    for _, descriptors in target.served.agent.held:
        for descriptor in descriptors:
            os.close(descriptor)
    target.served.agent.held.clear()
