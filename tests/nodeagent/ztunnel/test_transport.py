"""The decision socket against a real peer: a socket pair with plain system calls on the other end."""

import array
import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.linux.errors import KernelError
from nodeagent.ztunnel import protocol, transport
from nodeagent.ztunnel.transport import Session, SessionClosed, listen, serve
from tests.nodeagent.waiting import until

RELEASE = protocol.Release(ids=(1, 2))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.settimeout(3)
    before = open_descriptors()
    with ours, theirs:
        yield ours, theirs
        ours.close()
        assert open_descriptors() <= before - 1, "a descriptor was left open"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the listing's own descriptor counts the same each time


def frame(message: protocol.FromProxy) -> bytes:
    body = protocol.encode(message)
    return struct.pack("!I", len(body)) + body


def put(end: socket.socket, data: bytes, *fds: int) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    assert end.sendmsg([data], rights) == len(data)


def take(end: socket.socket) -> tuple[protocol.ToProxy, list[int]]:
    head, fds, _, _ = socket.recv_fds(end, 4, 16)
    body = b""
    while len(body) < struct.unpack("!I", head)[0]:
        body += end.recv(struct.unpack("!I", head)[0] - len(body))
    return protocol.decode_to_proxy(body), fds


async def receive(session: Session) -> tuple[protocol.FromProxy, tuple[int, ...]]:
    async with asyncio.timeout(3):
        return await session.receive()


@contextlib.contextmanager
def pipes(count: int) -> Iterator[list[int]]:
    """`count` descriptors that can be told apart."""
    made = [os.memfd_create(f"number-{index}") for index in range(count)]
    try:
        yield made
    finally:
        for fd in made:
            os.close(fd)


def name(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - a magic link


async def test_descriptors_belong_to_the_frame_they_were_sent_with(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    session = Session(ours)
    held = protocol.Held(uid="a", generation=1, listeners=())
    with pipes(3) as fds:
        put(theirs, frame(RELEASE) + frame(RELEASE))
        put(theirs, frame(held), fds[0], fds[1])
        put(theirs, frame(RELEASE))
        put(theirs, frame(held), fds[2])
        counts = []
        for _ in range(5):
            message, received = await receive(session)
            counts.append((type(message).__name__, [name(fd) for fd in received]))
            for fd in received:
                assert not os.get_inheritable(fd)
                os.close(fd)
        assert counts == [
            ("Release", []),
            ("Release", []),
            ("Held", [name(fds[0]), name(fds[1])]),
            ("Release", []),
            ("Held", [name(fds[2])]),
        ]
    session.close()


async def test_a_frame_may_come_in_pieces(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    session = Session(ours)
    waiting = asyncio.ensure_future(receive(session))
    for byte in frame(RELEASE):
        put(theirs, bytes([byte]))
        await asyncio.sleep(0)
    assert (await waiting)[0] == RELEASE
    session.close()


async def test_what_is_sent_arrives_in_order_with_its_descriptors(ends: tuple[socket.socket, socket.socket]) -> None:
    """More than the socket's buffer holds, so that it is queued and written in parts."""
    ours, theirs = ends
    session = Session(ours)
    with pipes(2) as fds:
        wide = protocol.SetTrust(roots={"d": "x" * 300_000})
        for number in range(20):
            session.send(wide)
            session.send(protocol.Report(request=number), fds if number % 3 == 0 else ())
        names = [name(fd) for fd in fds]

    def drain() -> list[tuple[int, list[str]]]:
        seen = []
        for _ in range(40):
            message, received = take(theirs)
            if isinstance(message, protocol.Report):
                seen.append((message.request, [name(fd) for fd in received]))
            for fd in received:
                os.close(fd)
        return seen

    assert await asyncio.to_thread(drain) == [(number, names if number % 3 == 0 else []) for number in range(20)]
    session.close()


async def test_a_proxy_that_does_not_read_is_closed_and_nothing_is_kept(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_MAX_QUEUED_BYTES", 1 << 20)
    session = Session(ends[0])
    with pipes(1) as fds, pytest.raises(SessionClosed, match="does not read"):
        flood(session, fds)
    assert session.closed
    with pytest.raises(SessionClosed):
        session.send(protocol.Synced())


def flood(session: Session, fds: list[int]) -> None:
    for number in range(100_000):
        session.send(protocol.SetTrust(roots={"d": "x" * 10_000}), fds if number % 100 == 0 else ())


async def test_the_end_is_told_apart_from_a_broken_frame(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    session = Session(ours)
    put(theirs, frame(RELEASE)[:-1])
    theirs.close()
    with pytest.raises(SessionClosed, match="within a frame"):
        await receive(session)
    ours, theirs = socket.socketpair()
    session = Session(ours)
    theirs.close()
    with pytest.raises(SessionClosed, match="the proxy closed"):
        await receive(session)
    with pytest.raises(SessionClosed):
        await receive(session)


async def test_closing_wakes_who_receives(ends: tuple[socket.socket, socket.socket]) -> None:
    session = Session(ends[0])
    waiting = asyncio.ensure_future(receive(session))
    await asyncio.sleep(0)
    session.close("because")
    session.close("again")
    with pytest.raises(SessionClosed, match="because"):
        await waiting


async def test_giving_up_between_frames_loses_nothing_and_within_one_closes(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    session = Session(ours)
    waiting = asyncio.ensure_future(receive(session))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    put(theirs, frame(RELEASE))
    assert (await receive(session))[0] == RELEASE
    with pipes(1) as fds:
        put(theirs, frame(RELEASE)[:3], *fds)
    waiting = asyncio.ensure_future(receive(session))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert session.closed


@pytest.mark.parametrize(
    ("data", "fds", "late"),
    [
        (struct.pack("!I", protocol.MAX_MESSAGE_BYTES + 1), 0, 0),
        (struct.pack("!I", 0), 0, 0),
        (struct.pack("!I", 2) + b"{}", 2, 0),
        (struct.pack("!I", 18) + b'{"type":"unknown"}', 2, 0),
        (frame(RELEASE), 17, 0),
        (frame(RELEASE), 0, 1),
    ],
    ids=["too long", "empty", "no type", "unknown type", "too many descriptors", "descriptors within a frame"],
)
async def test_what_is_not_of_the_protocol_ends_the_session(
    ends: tuple[socket.socket, socket.socket], data: bytes, fds: int, late: int
) -> None:
    ours, theirs = ends
    session = Session(ours)
    with pipes(max(fds, late)) as made:
        if late:
            put(theirs, data[:6])
            put(theirs, data[6:], *made)
        else:
            put(theirs, data, *made[:fds])
        with pytest.raises(protocol.ProtocolError):
            await receive(session)
    assert session.closed


async def exhaust(session: Session) -> None:
    while True:
        for fd in (await receive(session))[1]:
            os.close(fd)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 3)), max_size=6))
def test_any_bytes_with_any_descriptors_end_in_a_protocol_error_or_the_end(parts: list[tuple[bytes, int]]) -> None:
    async def attempt() -> None:
        ours, theirs = socket.socketpair()
        session = Session(ours)
        with theirs, pipes(3) as fds:
            for data, count in parts:
                if data:
                    put(theirs, data, *fds[:count])
        with pytest.raises((protocol.ProtocolError, SessionClosed)):
            await exhaust(session)
        assert session.closed

    before = open_descriptors()
    asyncio.run(attempt())
    assert open_descriptors() == before


async def test_the_server_takes_proxies_and_one_too_many_ends_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "decisions.sock"
    ended: list[str] = []

    async def handle(session: Session) -> None:
        session.send(protocol.Report(request=len(ended)))
        try:
            await session.receive()
        except (SessionClosed, protocol.ProtocolError) as error:
            ended.append(str(error))
            raise

    monkeypatch.setattr(transport, "_MAX_SESSIONS", 2)
    serving = asyncio.ensure_future(serve(path, handle))
    await until(path.exists)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second, socket.socket(socket.AF_UNIX) as third:
        for end in (first, second, third):
            end.settimeout(3)
        for end in (first, second):
            await asyncio.to_thread(end.connect, str(path))
            assert (await asyncio.to_thread(take, end))[0] == protocol.Report(request=0)
        await asyncio.to_thread(third.connect, str(path))
        await until(lambda: ended == ["too many sessions"])
        assert (await asyncio.to_thread(take, third))[0] == protocol.Report(request=1)
        assert await asyncio.to_thread(first.recv, 1) == b""
        with pytest.raises(KernelError, match="another agent runs"):
            listen(path)
        assert ended == ["too many sessions"], "asking whether an agent is there disturbs none"
        put(second, b"\xff" * 10)
        await until(lambda: len(ended) == 2)
        serving.cancel()
        await asyncio.wait([serving])
    assert not path.exists()
    with listen(path):
        pass


async def test_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "decisions.sock"
    handled: list[Session] = []

    async def handle(session: Session) -> None:
        handled.append(session)

    serving = asyncio.ensure_future(serve(path, handle))
    await until(path.exists)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(3)
        await asyncio.to_thread(end.connect, str(path))
        assert await asyncio.to_thread(end.recv, 1) == b""
    assert not handled
    serving.cancel()
    await asyncio.wait([serving])


def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(KernelError, match="0700"):
        listen(tmp_path / "decisions.sock")
