"""The unix socket between agent and proxy: frames with descriptors, both ways; `protocol` says what is in them."""

import array
import asyncio
import errno
import logging
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Protocol

from nodeagent.linux.errors import KernelError
from nodeagent.ztunnel.protocol import MAX_MESSAGE_BYTES, FromProxy, ProtocolError, ToProxy, decode_from_proxy, encode

log = logging.getLogger(__name__)

MAX_DESCRIPTORS: Final = 16
"""With one frame."""
_LENGTH: Final = struct.Struct("!I")
_DESCRIPTOR_SPACE: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
_READ_BYTES: Final = 256 << 10
_MAX_QUEUED_BYTES: Final = 64 << 20
_FRAMES_PER_WRITE: Final = 64
_FRAMES_PER_TURN: Final = 64
_ACCEPT_PAUSE_S: Final = 0.1
_MAX_SESSIONS: Final = 8
"""The proxy that serves, those that drain, and some that have not said who they are."""


class Sender(Protocol):
    """The side of a session that its users need who only tell."""

    def send(self, message: ToProxy, fds: tuple[int, ...] = ()) -> None:
        """Raises SessionClosed."""


class SessionClosed(ConnectionError):
    """The other side is gone, or this side closed; the text says which."""


class Session:
    """One connection of a proxy. Owns its socket. Used from one event loop; only one task receives."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the socket's own method
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._queued_bytes = 0
        self._writing = False
        self._closed = ""
        self._waiting: asyncio.Future[None] | None = None
        self._within_frame = False
        self._frames = 0

    @property
    def closed(self) -> bool:
        return bool(self._closed)

    async def receive(self) -> tuple[FromProxy, tuple[int, ...]]:
        """The next message and its descriptors, which are the caller's to close.

        Raises SessionClosed at the end, and ProtocolError, after closing, for what is not of the protocol. Cancelled within a frame it
        closes, too: what it had read of it is gone.
        """
        # The readiness of a socket that is always ready must not starve the other tasks.
        self._frames += 1
        if self._frames % _FRAMES_PER_TURN == 0:
            await asyncio.sleep(0)
        descriptors: list[int] = []
        try:
            # Descriptors arrive with the bytes that they were sent with. Reading the length on its own tells exactly whose they are,
            # however many frames are waiting.
            head = await self._read(_LENGTH.size, descriptors, first=True)
            body = await self._read(_length(head), descriptors)
            self._within_frame = False
            return decode_from_proxy(body), tuple(descriptors)
        except BaseException as error:
            _close_all(descriptors)
            if isinstance(error, ProtocolError):
                self.close(str(error))
            elif self._within_frame:
                self.close("given up within a frame")
            raise

    def send(self, message: ToProxy, fds: Sequence[int] = ()) -> None:
        """Queues a message; `fds` are duplicated, and stay the caller's. Raises SessionClosed, also if the proxy does not read."""
        if self._closed:
            raise SessionClosed(self._closed)
        body = encode(message)
        if len(body) > MAX_MESSAGE_BYTES or len(fds) > MAX_DESCRIPTORS:
            raise ValueError(f"a message of {len(body)} bytes with {len(fds)} descriptors")
        if self._queued_bytes + len(body) > _MAX_QUEUED_BYTES:
            self.close("the proxy does not read what it is sent")
            raise SessionClosed(self._closed)
        self._queue.append((memoryview(_LENGTH.pack(len(body)) + body), _duplicate(fds)))
        self._queued_bytes += _LENGTH.size + len(body)
        if not self._writing:
            self._write()

    def close(self, reason: str = "closed by the agent") -> None:
        """Ends the session: what is queued is lost, a `receive` that waits raises SessionClosed. Safe to repeat."""
        if self._closed:
            return
        self._closed = reason
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, fds in self._queue:
            _close_all(fds)
        self._queue.clear()
        self._queued_bytes = 0
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(SessionClosed(reason))

    async def _read(self, size: int, descriptors: list[int], *, first: bool = False) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing:
            data, late = await self._read_some(min(missing, _READ_BYTES), descriptors, allowed=first and not parts)
            if late or not data:
                at_boundary = first and not parts
                self.close("the proxy closed the connection" if at_boundary else "the connection ended within a frame")
                raise ProtocolError("descriptors within a frame") if late else SessionClosed(self._closed)
            parts.append(data)
            self._within_frame = True
            missing -= len(data)
        return b"".join(parts)

    async def _read_some(self, size: int, descriptors: list[int], *, allowed: bool) -> tuple[bytes, bool]:
        """What is there, at most `size` bytes, and whether descriptors came where none may."""
        while True:
            if self._closed:
                raise SessionClosed(self._closed)
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(size, _DESCRIPTOR_SPACE, socket.MSG_CMSG_CLOEXEC)
                break
            except BlockingIOError:
                await self._readable()
            except OSError as error:
                self.close(f"reading: {error.strerror}")
                raise SessionClosed(self._closed) from error
        before = len(descriptors)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                descriptors.extend(received)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(f"more than {MAX_DESCRIPTORS} descriptors with a frame, or no room for them")
        return data, len(descriptors) > before and not allowed

    async def _readable(self) -> None:
        self._waiting = self._loop.create_future()
        self._loop.add_reader(self._socket, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if not self._closed:
                self._loop.remove_reader(self._socket)

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def _write(self) -> None:
        try:
            while self._queue:
                self._write_some()
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._socket, self._write)
            return
        except OSError as error:
            self.close(f"writing: {error.strerror}")
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _write_some(self) -> None:
        """One system call: a frame with descriptors begins it or is left to the next, so that they go with its first byte."""
        views = [self._queue[0][0]]
        fds = self._queue[0][1]
        for index in range(1, min(len(self._queue), _FRAMES_PER_WRITE)):
            view, others = self._queue[index]
            if others:
                break
            views.append(view)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self._socket.sendmsg(views, rights)
        self._queued_bytes -= sent
        _close_all(fds)
        self._queue[0] = (self._queue[0][0], ())
        while sent:
            view = self._queue[0][0]
            if sent < len(view):
                self._queue[0] = (view[sent:], ())
                return
            sent -= len(view)
            self._queue.popleft()


async def serve(path: Path, handle: Callable[[Session], Awaitable[None]]) -> None:
    """Listens at `path` until cancelled and calls `handle` for each session, which ends with it. One too many ends the oldest.

    Raises KernelError if the socket can't be made. What `handle` raises beyond SessionClosed and ProtocolError is the caller's.
    """
    listening = listen(path)
    loop = asyncio.get_running_loop()
    sessions: list[Session] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                connection = await _accept(loop, listening)
                if (refusal := _refusal(connection)) is not None:
                    log.warning("decisions socket: refused %s", refusal)
                    connection.close()
                    continue
                sessions = [session for session in sessions if not session.closed]
                if len(sessions) >= _MAX_SESSIONS:
                    sessions.pop(0).close("too many sessions")
                sessions.append(Session(connection))
                tasks.create_task(_run(sessions[-1], handle), name="proxy session")
    finally:
        _end(path, listening)
        for session in sessions:
            session.close("the agent stops")


def listen(path: Path) -> socket.socket:
    """A listening socket that only this user can reach: 0600, in a directory 0700 of its own. Raises KernelError."""
    subject = f"decisions socket {path}"
    with ExitStack() as undo:
        listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_place(path, subject)
            path.unlink(missing_ok=True)
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(16)
        except KernelError:
            raise
        except OSError as error:
            raise KernelError(error.errno or errno.EINVAL, subject, detail=error.strerror or str(error)) from error
        undo.pop_all()
        return listening


def _end(path: Path, listening: socket.socket) -> None:
    # In this order: as long as this one answers, no successor listens there.
    path.unlink(missing_ok=True)
    listening.close()


def _check_place(path: Path, subject: str) -> None:
    status = path.parent.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise KernelError(errno.EACCES, subject, f"make {path.parent} a directory of this user with mode 0700")
    if answers(path):
        raise KernelError(errno.EADDRINUSE, subject, "another agent runs with this run directory")


def answers(path: Path) -> bool:
    """Whether a living process has the socket. Asked with the wrong kind of socket: the answer comes without a session being made."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(str(path)) == errno.EPROTOTYPE


async def _accept(loop: asyncio.AbstractEventLoop, listening: socket.socket) -> socket.socket:
    while True:
        try:
            connection, _ = await loop.sock_accept(listening)
        except OSError as error:
            # Descriptors ran out: waiting is what helps, and what must not become a spin.
            log.warning("decisions socket: accept: %s", error.strerror)
            await asyncio.sleep(_ACCEPT_PAUSE_S)
        else:
            return connection


def _refusal(connection: socket.socket) -> str | None:
    """Who dialled, if it is not a process of our own user."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return None if uid == os.geteuid() else f"process {pid} of user {uid}"


async def _run(session: Session, handle: Callable[[Session], Awaitable[None]]) -> None:
    try:
        await handle(session)
    except SessionClosed as end:
        log.info("proxy session: %s", end)
    except ProtocolError as error:
        log.warning("proxy session: %s", error)
    finally:
        session.close()


def _length(head: bytes) -> int:
    length: int = _LENGTH.unpack(head)[0]
    if length > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a frame of {length} bytes")
    return length


def _duplicate(fds: Sequence[int]) -> tuple[int, ...]:
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))  # noqa: PERF401 - what was made before a failure must be closed
    except OSError:
        _close_all(made)
        raise
    return tuple(made)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
