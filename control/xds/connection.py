"""One open discovery stream with its outbox, and what the operator is told of it."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping

from msgspec import Struct

from control.ca.callers import Agent, Credentials, ProxyRunner
from control.ca.refusal import UnauthenticatedError
from control.envoy.view import ProxyView
from control.kinds import ObjectKey
from control.resources import Changes, ResourceView, TypeURL
from control.xds.proxy_stream import ProxyStream
from control.xds.refusals import Refusals, Verdict
from control.xds.secrets import SecretView
from control.xds.stream import Changed, Stream, TypeStatus
from meshapi import discovery

Follower = Agent | ProxyRunner


class AgentStatus(Struct, frozen=True):
    """One open stream of an agent, for the operator."""

    node: str
    peer: str
    client: str
    since_s: float
    types: list[TypeStatus]


class RefusedResource(Struct, frozen=True):
    """A resource that an Envoy does not take, in its words. `sources` are the objects that shaped it."""

    type_url: str
    name: str
    at_s: float
    message: str
    sources: list[str]


class ProxyStatus(Struct, frozen=True):
    """One open stream of an Envoy, for the operator. `untranslated`: resources that could not be made, and why.

    `secrets`: certificates that its gateway has not, or not as they are now, by their names in SDS, and why.
    """

    proxy: str
    peer: str
    client: str
    since_s: float
    types: list[TypeStatus]
    refused: list[RefusedResource]
    untranslated: dict[str, str]
    secrets: dict[str, str]


class ClosedError(Exception):
    """The controller closes the stream, and all is well: the client comes back at once."""


class Connection:
    """A stream with its outbox."""

    def __init__(self, agent: Follower, credentials: Credentials, views: Mapping[TypeURL, ResourceView], since_s: float) -> None:
        self.agent = agent
        self.credentials = credentials
        self.since_s = since_s
        self.stream: Stream = ProxyStream(views) if isinstance(agent, ProxyRunner) else Stream(views)
        self.proxy: ProxyView | None = None
        """What the Envoy behind this stream is served, once it has asked."""
        self.secrets: SecretView | None = None
        """The certificates of its gateway, once they were asked for."""
        self.outbox: deque[discovery.Response] = deque()
        self.wake = asyncio.Event()
        self._reason: UnauthenticatedError | ClosedError = ClosedError()
        self._ended = asyncio.Event()

    def end(self, why: UnauthenticatedError | ClosedError) -> None:
        """Makes the stream close, whatever it is about."""
        self._reason = why
        self._ended.set()

    async def until_ended(self) -> None:
        """Raises why the stream must close, once it must."""
        await self._ended.wait()
        raise self._reason

    def changed(self, changes: Changes) -> None:
        """What this Envoy is served has changed."""
        self.send(self.stream.step(Changed({type_url: dict.fromkeys(names, ()) for type_url, names in changes.items()})))

    def send(self, responses: list[discovery.Response]) -> None:
        if responses:
            self.outbox.extend(responses)
            self.wake.set()

    @property
    def refusals(self) -> Refusals | None:
        """What an Envoy refuses; None for who is none."""
        return self.stream.refusals if isinstance(self.stream, ProxyStream) else None

    def verdicts(self) -> list[Verdict]:
        """What an Envoy said to its resources since this was asked last."""
        return self.stream.verdicts() if isinstance(self.stream, ProxyStream) else []

    def status(self) -> AgentStatus:
        return AgentStatus(self.agent.node, self.credentials.peer, self.stream.node.id[:200], self.since_s, self.stream.status())

    def told_refusals(self) -> Iterator[tuple[ObjectKey, str]]:
        """Of each object that shaped something that this Envoy refuses, what it says."""
        if self.proxy is None or self.refusals is None:
            return
        for one in self.refusals.all():
            kind = one.type_url.rpartition(".")[2]
            for source in self.proxy.sources(TypeURL(one.type_url), one.name):
                yield source, f"the Envoy of Gateway {self.agent.node} refuses the {kind} {one.name}: {one.message}"

    def proxy_status(self, secrets: dict[str, str]) -> ProxyStatus | None:
        """None for who is no Envoy, or has not asked for anything yet. `secrets`: what the gateway lacks of them."""
        view = self.proxy
        if view is None or not isinstance(self.stream, ProxyStream):
            return None
        refused = [
            RefusedResource(
                type_url=one.type_url,
                name=one.name,
                at_s=one.at_s,
                message=one.message,
                sources=[str(key) for key in view.sources(TypeURL(one.type_url), one.name)],
            )
            for one in self.stream.refusals.all()
        ]
        failed = {f"{type_url.rpartition('.')[2]} {name}": why for (type_url, name), why in view.failed.items()}
        of = self.status()
        return ProxyStatus(of.node, of.peer, of.client, of.since_s, of.types, refused, failed, secrets)
