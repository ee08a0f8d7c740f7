"""The delta-ADS client's edge: one gRPC stream after the other, feeding the state machine and doing what it says."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, NoReturn, Protocol

import grpc
import grpc.aio
from msgspec import Struct

from meshapi.discovery import DELTA_METHOD, DiscoveryError, Request, Resource, decode_response, encode_request
from nodeagent.xds.channel import Dial, is_cancelled, open_channel
from nodeagent.xds.core import Core
from nodeagent.xds.events import DialAt, Effect, Flush, Lost, Opened, Ready, Received, Rejected, Send, Subscribe, Unsubscribe, Update
from nodeagent.xds.holdings import STRAY_S

log = logging.getLogger(__name__)

WRITE_DEADLINE_S: Final = 30.0
FIRST_ANSWER_DEADLINE_S: Final = 30.0
FIRST_ANSWER_HEADSTART_S: Final = 1.0
EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
Stream = grpc.aio.StreamStreamCall


class Handler(Protocol):
    """Told what changed, in order, on the event loop."""

    def apply(self, update: Update) -> None:
        """Resources came or went."""

    def on_rejected(self, rejected: Rejected) -> None:
        """A resource was refused."""

    def on_ready(self) -> None:
        """Each required type was answered once."""


class Status(Struct, frozen=True):
    """The connection as `nodeagent status` shows it; times in Unix seconds. `last_error` says how the stream before this one ended."""

    target: str
    connected_since_s: float | None
    last_response_s: float | None
    last_error: str | None
    failures: int
    ready: bool


class _EndedError(Exception):
    """The stream is over."""

    def __init__(self, error: str, *, clean: bool) -> None:
        super().__init__(error)
        self.lost = Lost(clean, error)


class XDSClient:
    """Keeps a stream to the controller. `dial` is called for every stream, in a thread: it reads token and certificate anew."""

    def __init__(
        self,
        core: Core,
        dial: Callable[[], Dial],
        handler: Handler,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._core = core
        self._dial = dial
        self._handler = handler
        self._clock = clock
        self._wall = wall
        self._changed = asyncio.Event()
        self._rotated = asyncio.Event()
        self._answered = asyncio.Event()
        self._writing = asyncio.Lock()
        self._status = Status("", None, None, None, 0, ready=False)

    @property
    def status(self) -> Status:
        return self._status

    @property
    def wanted(self) -> frozenset[str]:
        """The keys that are subscribed."""
        return self._core.wanted

    @property
    def rejected(self) -> Mapping[str, Mapping[str, str]]:
        """By type, the names that were refused and why."""
        return self._core.rejected

    def subscribe(self, keys: Collection[str]) -> None:
        """Asks for what the keys stand for: now, and again on every new stream. Calls are gathered into few requests."""
        self._core.step(Subscribe(frozenset(keys)), self._clock())
        self._changed.set()

    def unsubscribe(self, keys: Collection[str]) -> None:
        """Takes keys back; what only they stood for is removed."""
        self._core.step(Unsubscribe(frozenset(keys)), self._clock())
        self._changed.set()

    def restore(self, type_url: str, resources: Iterable[Resource], rejected: Mapping[str, str] = EMPTY) -> None:
        """Hands in what was kept from an earlier run, with what was `rejected` then; call it after `subscribe` and before `run`."""
        self._deliver(self._core.restore(type_url, resources, rejected, self._clock()))

    def restore_answered(self, keys: Collection[str]) -> None:
        """Hands in the keys that were answered in an earlier run; call it after `subscribe` and before `run`."""
        self._core.restore_answered(keys)

    def redial(self) -> None:
        """Ends the stream, or the wait for one, and dials again with new credentials."""
        self._rotated.set()

    async def run(self) -> NoReturn:
        """Serves until it is cancelled."""
        while True:
            lost = await self._stream()
            # One line when it goes and for each new reason; a controller that is away for a day does not fill the log.
            if self._status.connected_since_s is not None or lost.error != self._status.last_error:
                level = logging.INFO if lost.clean else logging.WARNING
                log.log(level, "the stream to the controller %s ended: %s", self._status.target, lost.error)
            failures = 0 if lost.clean else self._status.failures + 1
            self._set(connected_since_s=None, last_error=lost.error, failures=failures)
            for effect in self._core.step(lost, self._clock()):
                if isinstance(effect, DialAt):
                    await self._rest(effect.at_s - self._clock())

    async def _rest(self, delay_s: float) -> None:
        """Waits before the next dial, but not once there are new credentials to try."""
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._rotated.wait()

    async def _stream(self) -> Lost:
        """Opens a stream and stays until it ends; says how it ended."""
        self._rotated.clear()
        self._answered.clear()
        try:
            dial = await asyncio.to_thread(self._dial)
            channel = open_channel(dial)
        except (OSError, ValueError) as error:
            return Lost(clean=False, error=f"credentials: {error}")
        self._set(target=dial.target)
        try:
            method = channel.stream_stream(DELTA_METHOD, None, None)
            return await self._converse(method(None, metadata=dial.metadata()))
        finally:
            await channel.close(None)

    async def _converse(self, stream: Stream[bytes, bytes]) -> Lost:
        ends: list[Lost] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(stream), name="xds read")
                tasks.create_task(self._write(stream), name="xds write")
                tasks.create_task(self._watch_rotation(), name="xds rotation")
        except* _EndedError as group:
            ends += [error.lost for error in group.exceptions if isinstance(error, _EndedError)]
        finally:
            stream.cancel()
        return ends[0]

    async def _read(self, stream: Stream[bytes, bytes]) -> NoReturn:
        deadline_s: float | None = FIRST_ANSWER_DEADLINE_S
        while True:
            body = await _next_message(stream, deadline_s)
            if deadline_s is not None:
                self._answered.set()
                self._set(connected_since_s=self._wall(), failures=0)
                log.info("connected to the controller %s", self._status.target)
                deadline_s = None
            try:
                response = decode_response(body)
            except DiscoveryError as error:
                raise _EndedError(str(error), clean=False) from error
            self._set(last_response_s=self._wall())
            # The next message is read when the answer to this one is out: a server that does not read gets no queue here.
            await self._do(stream, self._core.step(Received(response), self._clock()))

    async def _write(self, stream: Stream[bytes, bytes]) -> NoReturn:
        self._changed.clear()
        opening = self._core.step(Opened(), self._clock())
        until_first_request = 1 + next(index for index, effect in enumerate(opening) if isinstance(effect, Send))
        await self._do(stream, opening[:until_first_request])
        # A server that refuses the caller ends the stream now; a write that fails meanwhile would hide its reason (gRPC reports its own).
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_HEADSTART_S):
                await self._answered.wait()
        await self._do(stream, opening[until_first_request:])
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(STRAY_S):
                    await self._changed.wait()
            self._changed.clear()
            await self._do(stream, self._core.step(Flush(), self._clock()))

    async def _watch_rotation(self) -> NoReturn:
        await self._rotated.wait()
        raise _EndedError("credentials were rotated", clean=True)

    async def _do(self, stream: Stream[bytes, bytes], effects: Iterable[Effect]) -> None:
        self._deliver(effects)
        for effect in effects:
            if isinstance(effect, Send):
                await self._send(stream, effect.request)

    def _deliver(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Update():
                    self._handler.apply(effect)
                case Rejected():
                    self._handler.on_rejected(effect)
                case Ready():
                    self._set(ready=True)
                    self._handler.on_ready()

    async def _send(self, stream: Stream[bytes, bytes], request: Request) -> None:
        try:
            async with self._writing, asyncio.timeout(WRITE_DEADLINE_S):
                await stream.write(encode_request(request))
        except TimeoutError as error:
            raise _EndedError("the server does not read", clean=False) from error
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The stream is over; the reader learns of it too, and how it ended.
            return
        except asyncio.CancelledError:
            if is_cancelled():
                raise

    def _set(self, **changes: Any) -> None:
        fields = {name: getattr(self._status, name) for name in Status.__struct_fields__}
        self._status = Status(**(fields | changes))


async def _next_message(stream: Stream[bytes, bytes], deadline_s: float | None) -> bytes:
    try:
        async with asyncio.timeout(deadline_s):
            body = await stream.read()
    except TimeoutError as error:
        raise _EndedError(f"no answer within {deadline_s:g} s", clean=False) from error
    except grpc.aio.AioRpcError as error:
        raise _EndedError(f"{error.code().name}: {error.details()}", clean=False) from error
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise _EndedError("the call was cancelled", clean=False) from None
    if not isinstance(body, bytes):  # the end of the stream; a status other than OK was raised above
        raise _EndedError("closed by the server", clean=True)
    return body
