"""Certificates of a gateway, from the controller: asked for by the names that Envoy asks for, held in memory alone, and followed.

One stream for all of them. What was there once stays in use while no controller answers. When its Secret goes, a server's certificate
stays, which lets nobody in who was not; roots by which clients are verified do not: without them nobody is let in.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from control.envoy.built import SECRET
from control.envoy.credentials import parse
from control.envoy.messages import Message, message_class
from control.rpc import aio
from control.waypoint.dialling import Backoff
from control.waypoint.identity import Identity
from control.waypoint.nobody import nobodys_roots
from meshapi import discovery

MAX_NAMES: Final = 20_000
log = logging.getLogger(__name__)


class GatewaySecrets:
    """What Envoy asked for, and what of it is there."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._wanted: dict[str, None] = {}
        self._held: dict[str, Message] = {}
        self._watchers: list[Callable[[], None]] = []
        self._more = asyncio.Event()

    def __repr__(self) -> str:
        return f"GatewaySecrets({len(self._held)} held)"

    def want(self, name: str) -> None:
        """From now on a secret of this name is followed, if it is one of a gateway's."""
        if parse(name) is None or name in self._wanted:
            return
        if len(self._wanted) == MAX_NAMES:
            log.error("%s is not asked for: there are %d certificates already", name, MAX_NAMES)
            return
        self._wanted[name] = None
        self._more.set()

    def get(self, name: str) -> Message | None:
        """A Secret of Envoy's by its name, None while it is not there."""
        return self._held.get(name)

    def on_change(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Calls `watcher` after something came; returns what ends it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    async def run(self) -> None:
        """Until cancelled; does nothing before something is wanted."""
        backoff = Backoff()
        await self._identity.ready.wait()
        while True:
            await self._more.wait()
            try:
                await self._follow(backoff)
            except* (aio.AioRpcError, discovery.DiscoveryError, DecodeError, TimeoutError, OSError) as group:
                self._identity.dialler.failed()
                log.info("the stream of certificates ended: %s", _first(group))
            await asyncio.sleep(backoff.next_s())
            self._more.set()

    async def _follow(self, backoff: Backoff) -> None:
        proof = self._identity.proof()
        async with self._identity.dialler.channel(proof) as channel:
            call = channel.stream_stream(discovery.DELTA_METHOD, None, None)(None, metadata=self._identity.dialler.metadata(proof))
            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(self._ask(call), name="certificates: names")
                while isinstance(body := await call.read(), bytes):
                    response = discovery.decode_response(body)
                    self._take(response)
                    await call.write(discovery.encode_request(discovery.Request(SECRET, nonce=response.nonce)))
                    backoff.reset()
                asking.cancel()

    async def _ask(self, call: "aio.StreamStreamCall[bytes, bytes]") -> None:
        """All that is wanted, and then what is wanted besides."""
        asked: set[str] = set()
        while True:
            await self._more.wait()
            self._more.clear()
            names = tuple(name for name in self._wanted if name not in asked)
            asked.update(names)
            if names:
                await call.write(discovery.encode_request(discovery.Request(SECRET, subscribe=names, node=discovery.Node("secrets"))))

    def _take(self, response: discovery.Response) -> None:
        kind = message_class(SECRET.partition("/")[2])
        for resource in response.resources:
            if resource.name in self._wanted:
                self._held[resource.name] = kind.FromString(resource.body)
        for name in response.removed:
            self._gone(name, kind)
        for watcher in tuple(self._watchers):
            watcher()

    def _gone(self, name: str, kind: Any) -> None:
        held = self._held.get(name)
        if held is None:
            return
        if held.HasField("validation_context"):
            log.warning("the roots %s are gone: clients that are verified by them are refused", name)
            self._held[name] = kind(name=name, validation_context={"trusted_ca": {"inline_bytes": nobodys_roots()}})
        else:
            log.warning("the certificate %s is gone: what was there last stays in use", name)


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{error.code().name}: {error.details()}"[:300] if isinstance(error, aio.AioRpcError) else str(error)[:300]
