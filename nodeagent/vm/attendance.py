"""The stream in which the machine says what is there, and learns as what: one after the other, for as long as the agent runs."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NoReturn

import grpc
import grpc.aio

from meshapi.attendance import ATTEND, LEAVE, Assigned, Member, decode_assignment, encode_attendance
from meshapi.decoding import ModelError
from nodeagent.xds.backoff import Backoff
from nodeagent.xds.channel import Dial, is_cancelled, open_channel

FIRST_ANSWER_S: Final = 30.0
WRITE_S: Final = 30.0
STEADY_S: Final = 15.0
LEAVE_S: Final = 20.0
log = logging.getLogger(__name__)
Stream = grpc.aio.StreamStreamCall


class _EndedError(Exception):
    """The stream is over, and why."""


class Attendance:
    """`dial` is called for every stream, in a thread; `on_assigned` with all that the controller says, each time."""

    def __init__(self, dial: Callable[[], Dial], on_assigned: Callable[[tuple[Assigned, ...]], None]) -> None:
        self._dial = dial
        self._on_assigned = on_assigned
        self._members: tuple[Member, ...] = ()
        self._changed = asyncio.Event()
        self.problem = "the controller has not been asked yet"
        """Why the controller does not know of the machine now, in words; empty if it does."""

    def say(self, members: Iterable[Member]) -> None:
        """What is there now: sent at once, and first on every new stream."""
        said = tuple(members)
        if said != self._members:
            self._members = said
            self._changed.set()

    async def run(self) -> NoReturn:
        """Until it is cancelled."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            problem = await self._stream()
            if problem != self.problem:
                log.warning("the controller does not know what is here: %s", problem)
            self.problem = problem
            if loop.time() - begun_s >= STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _stream(self) -> str:
        """Opens a stream and stays until it ends; says how it ended."""
        try:
            dial = await asyncio.to_thread(self._dial)
            channel = open_channel(dial)
        except (OSError, ValueError) as error:
            return f"credentials: {error}"
        stream = channel.stream_stream(ATTEND, None, None)(None, metadata=dial.metadata())
        ends: list[str] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(stream), name="attendance read")
                tasks.create_task(self._write(stream), name="attendance write")
        except* _EndedError as group:
            ends += [str(error) for error in group.exceptions]
        finally:
            stream.cancel()
            await channel.close(None)
        return ends[0]

    async def _read(self, stream: Stream[bytes, bytes]) -> NoReturn:
        deadline_s: float | None = FIRST_ANSWER_S
        while True:
            body = await _next_message(stream, deadline_s)
            deadline_s = None
            try:
                assigned = decode_assignment(body)
            except ModelError as error:
                raise _EndedError(f"what the controller says can't be understood: {error}") from error
            if self.problem:
                log.info("the controller knows what is here")
            self.problem = ""
            self._on_assigned(assigned)

    async def _write(self, stream: Stream[bytes, bytes]) -> NoReturn:
        while True:
            self._changed.clear()
            try:
                async with asyncio.timeout(WRITE_S):
                    await stream.write(encode_attendance(self._members))
            except TimeoutError as error:
                raise _EndedError("the controller does not read") from error
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # The stream is over; the reader learns of it too, and how it ended.
                pass
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
            await self._changed.wait()


async def leave(dial: Dial, connected: Callable[[], object] = lambda: None) -> None:
    """Tells the controller that the machine leaves for good; `connected` is called just before.

    Raises OSError: PermissionError, if the controller does not know the machine (any more).

    Tried for a while: the connection may be cut by what was taken off the machine just now.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + LEAVE_S
    backoff = Backoff()
    while True:
        try:
            await _leave_once(dial, connected)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise PermissionError(f"{error.code().name}: {error.details()}") from error
            if error.code() is not grpc.StatusCode.UNAVAILABLE or loop.time() > until_s:
                raise OSError(f"{error.code().name}: {error.details()}") from error
            await asyncio.sleep(backoff.next_s())
        else:
            return


async def _leave_once(dial: Dial, connected: Callable[[], object]) -> None:
    try:
        channel = open_channel(dial)
    except ValueError as error:
        raise OSError(str(error)) from error
    try:
        if await _is_there(channel):
            connected()
        await channel.unary_unary(LEAVE, None, None)(b"", metadata=dial.metadata(), timeout=LEAVE_S)
    finally:
        await channel.close(None)


async def _is_there(channel: grpc.aio.Channel) -> bool:
    """Whether a connection comes about at the first try; why it does not, the call will say."""
    state = channel.get_state(try_to_connect=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_S):
            while state not in {grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE}:
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    return state is grpc.ChannelConnectivity.READY


async def _next_message(stream: Stream[bytes, bytes], deadline_s: float | None) -> bytes:
    try:
        async with asyncio.timeout(deadline_s):
            body = await stream.read()
    except TimeoutError as error:
        raise _EndedError(f"no answer within {deadline_s:g} s") from error
    except grpc.aio.AioRpcError as error:
        raise _EndedError(f"{error.code().name}: {error.details()}") from error
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise _EndedError("the call was cancelled") from None
    if not isinstance(body, bytes):
        with suppress(grpc.aio.AioRpcError):
            await stream.code()
        raise _EndedError("the controller closed the stream")
    return body
