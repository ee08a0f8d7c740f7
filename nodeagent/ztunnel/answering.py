"""Answers one session's questions: the edge around `Decisions`, with the clock, the snapshot in force and the subscriptions."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, NoReturn, Protocol, Self

from nodeagent.resolve.resolve import RouteQuestion
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.subscriptions import Subscriptions
from nodeagent.ztunnel.decisions import Decisions, Effects
from nodeagent.ztunnel.protocol import AnswerRoute, AnswerVerdict, AskRoute, AskVerdict, Release, Settings

ANSWER_MARGIN: Final = 0.8
"""Of the proxy's deadline for a decision: a no in words, before it gives up without."""


class Send(Protocol):
    def __call__(self, message: AnswerRoute | AnswerVerdict) -> None:
        """Queues a message; never blocks. Ends the session if the proxy does not read."""


class Outside(Protocol):
    """Who lets connections past the proxy to destinations that the mesh does not know."""

    def add(self, question: RouteQuestion) -> None:
        """The answer to this is `pass`, and will be kept true."""

    def remove(self, question: RouteQuestion) -> None:
        """It is not any more. Never raises; when it returns, no new connection goes past."""


class Answering:
    """Use as a context manager: what it subscribed is dropped at the end."""

    def __init__(
        self,
        store: SnapshotStore,
        subscriptions: Subscriptions,
        send: Send,
        settings: Settings,
        *,
        outside: Outside | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # The proxy's own limit comes first; this one holds if the proxy does not keep to it.
        max_held = 2 * settings.max_held_answers
        self._decisions = Decisions(store.current, deadline_s=settings.decision_deadline_s * ANSWER_MARGIN, max_held=max_held)
        self._subscriptions = subscriptions
        self._send = send
        self._outside = outside
        self._clock = clock
        self._wake = asyncio.Event()
        self._end_watch = store.watch(self._on_snapshot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_watch()
        self._do(self._decisions.close())

    @property
    def held(self) -> int:
        return len(self._decisions)

    @property
    def waiting(self) -> int:
        return self._decisions.waiting

    def ask(self, message: AskRoute | AskVerdict) -> None:
        """Answers at once if it can."""
        self._do(self._decisions.ask(message, self._clock(), wait_for_labels=self._subscriptions.connected))
        if self._decisions.waiting:
            self._wake.set()

    def release(self, message: Release) -> None:
        """The proxy no longer holds these answers."""
        self._do(self._decisions.release(message.ids))

    async def run(self) -> NoReturn:
        """Answers again what changed, and says no where a deadline passed, until it is cancelled."""
        while True:
            await self._wait()
            while self._decisions.stale:
                self._do(self._decisions.refresh(self._clock()))
                await asyncio.sleep(0)  # new questions do not wait for the rest of these
            self._do(self._decisions.expire(self._clock()))

    async def _wait(self) -> None:
        deadline_s = self._decisions.next_deadline_s
        try:
            async with asyncio.timeout(None if deadline_s is None else max(0.0, deadline_s - self._clock())):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _on_snapshot(self, snapshot: Snapshot, touched: frozenset[str]) -> None:
        self._decisions.changed(snapshot, touched)
        if self._decisions.stale:
            self._wake.set()

    def _do(self, effects: Effects) -> None:
        # First what is new, then what is given up: a key that moves from one to the other stays subscribed.
        self._subscriptions.need(effects.needed)
        self._subscriptions.drop(effects.dropped)
        # Before the new answer is acted on nobody goes past the proxy by the old one, and only after it by the new.
        if self._outside is not None:
            for question in effects.inside:
                self._outside.remove(question)
        for answer in effects.answers:
            self._send(answer)
        if self._outside is not None:
            for question in effects.outside:
                self._outside.add(question)
