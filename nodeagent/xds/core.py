"""Delta ADS as a state machine without I/O: `step(event, now) -> effects`.

One stream at a time. A resource that can't be understood is refused alone: its response is answered with a NACK that names it, the others
apply, and its last good form stays. What is held outlives streams; a new stream begins by saying which versions are held.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from random import random
from typing import Final, assert_never

from meshapi.discovery import Node, Request, Resource, Response
from nodeagent.xds.backoff import Backoff
from nodeagent.xds.events import DialAt, Effect, Event, Flush, Lost, Opened, Ready, Received, Rejected, Send, Subscribe, Unsubscribe, Update
from nodeagent.xds.holdings import Holdings
from nodeagent.xds.kinds import KINDS, Accepted, accept

MAX_KEYS_PER_REQUEST: Final = 1000
MAX_ERROR_CHARS: Final = 4096
MAX_REASON_CHARS: Final = 500
STEADY_S: Final = 15.0
"""A stream that lasted this long was no failure to connect: the next delay is the first again, however it ended."""


class Core:
    """The client's state. `required` are the types that must have been answered before the agent is ready."""

    def __init__(self, node: Node, *, required: Collection[str], chance: Callable[[], float] = random) -> None:
        self._node = node
        self._required = frozenset(required)
        self._holdings = {kind.type_url: Holdings(kind) for kind in KINDS}
        self._on_demand = [holdings for holdings in self._holdings.values() if holdings.kind.on_demand]
        self._sent: dict[str, set[str]] = {}
        self._backoff = Backoff(chance=chance)
        self._opened_s: float | None = None
        self._answered_on_stream = False
        self.ready = False

    @property
    def wanted(self) -> frozenset[str]:
        """The keys that are subscribed: to be kept with the resources, and subscribed again before `restore`."""
        return frozenset(key for holdings in self._on_demand for key in holdings.wanted)

    @property
    def rejected(self) -> Mapping[str, Mapping[str, str]]:
        """By type, the names that were refused and why."""
        return {url: dict(holdings.rejected) for url, holdings in self._holdings.items()}

    def restore(self, type_url: str, resources: Iterable[Resource], rejected: Mapping[str, str], now: float) -> tuple[Effect, ...]:
        """Takes what was kept from an earlier run, as if the server had sent it: resources, and names with the reason of their refusal."""
        holdings = self._holdings[type_url]
        upserts, _, errors = _accept_all(holdings, resources, now)
        holdings.rejected.update(rejected)
        refused = [
            Rejected(type_url, name, error, has_last_good=holdings.holds(name), keys=(name,) if name in holdings.wanted else ())
            for name, error in (errors | dict(rejected)).items()
        ]
        return (Update(type_url, upserts=tuple(upserts)), *refused)

    def restore_answered(self, keys: Collection[str]) -> None:
        """Takes the keys that the server had answered in an earlier run."""
        for holdings in self._on_demand:
            holdings.answered_keys |= holdings.wanted.intersection(keys)

    def step(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Takes one event at a time of the monotonic clock, in seconds."""
        match event:
            case Opened():
                return self._open(now)
            case Received(response):
                return (*self._receive(response, now), *self._drop_strays(now))
            case Lost(clean, _):
                return self._lose(clean, now)
            case Subscribe(keys):
                for holdings in self._on_demand:
                    holdings.wanted |= keys
                return ()
            case Unsubscribe(keys):
                for holdings in self._on_demand:
                    holdings.wanted -= keys
                    holdings.answered_keys -= keys
                return ()
            case Flush():
                return (*self._flush(now), *self._drop_strays(now))
        assert_never(event)

    def _open(self, now: float) -> tuple[Effect, ...]:
        self._opened_s = now
        self._answered_on_stream = False
        drops = [effect for holdings in self._on_demand for effect in _drop(holdings, holdings.unwanted(), now)]
        effects: list[Effect] = []
        for url, holdings in self._holdings.items():
            # Subscribing to everything and taking it back in one request is the protocol's "nothing yet".
            everything = ("*",) if holdings.kind.on_demand else ()
            first = Request(
                url, subscribe=everything, unsubscribe=everything, initial_versions=holdings.initial_versions(), node=self._node
            )
            effects.append(Send(first))
            effects += _subscriptions(url, holdings.wanted, ())
            self._sent[url] = set(holdings.wanted)
        return (*drops, *effects)

    def _flush(self, now: float) -> tuple[Effect, ...]:
        if self._opened_s is None:
            return ()
        effects: list[Effect] = []
        for holdings in self._on_demand:
            url = holdings.kind.type_url
            sent = self._sent[url]
            fresh, gone = holdings.wanted - sent, sent - holdings.wanted
            holdings.give_up(gone, now)
            effects += _subscriptions(url, fresh, gone)
            self._sent[url] = set(holdings.wanted)
        return tuple(effects)

    def _receive(self, response: Response, now: float) -> list[Effect]:
        self._answered_on_stream = True
        holdings = self._holdings.get(response.type_url)
        if holdings is None:
            error = f"{response.type_url[:200]} was not asked for"
            return [Send(Request(response.type_url, nonce=response.nonce, error=error))]
        removed, given_up = _remove(holdings, response.removed, now)
        upserts, replaced, errors = _accept_all(holdings, response.resources, now)
        absent = holdings.absent([*response.removed, *given_up, *replaced])
        answered = [key for accepted in upserts for key in holdings.answer(accepted)] if holdings.kind.on_demand else []
        effects: list[Effect] = []
        if upserts or removed or absent:
            effects.append(Update(response.type_url, tuple(upserts), tuple(removed), tuple(absent), tuple(answered)))
        aliases = {resource.name: resource.aliases for resource in response.resources}
        for name, error in errors.items():
            keys = tuple(key for key in (name, *aliases[name]) if key in holdings.wanted)
            effects.append(Rejected(response.type_url, name, error, has_last_good=holdings.holds(name), keys=keys))
        effects.append(Send(Request(response.type_url, nonce=response.nonce, error=_nack(errors))))
        holdings.answered = True
        if not self.ready and all(self._holdings[url].answered for url in self._required):
            self.ready = True
            effects.append(Ready())
        return effects

    def _lose(self, clean: bool, now: float) -> tuple[Effect, ...]:
        steady = self._opened_s is not None and now - self._opened_s >= STEADY_S
        # A server that accepts and closes without an answer would otherwise be dialled a hundred times a second.
        if steady or (clean and self._answered_on_stream):
            self._backoff.reset()
        self._opened_s = None
        self._answered_on_stream = False
        self._sent.clear()
        return (DialAt(now + self._backoff.next_s()),)

    def _drop_strays(self, now: float) -> list[Effect]:
        if self._opened_s is None:
            return []
        effects: list[Effect] = []
        for holdings in self._on_demand:
            names = holdings.strays(now)
            effects += _drop(holdings, names, now)
            # The server may watch by name what was held at the start of the stream: it must forget that too, or would not send it again.
            effects += _subscriptions(holdings.kind.type_url, (), names)
        return effects


def _accept_all(holdings: Holdings, resources: Iterable[Resource], now: float) -> tuple[list[Accepted], set[str], dict[str, str]]:
    """Returns what was accepted, the keys of what that replaced, and why each other name was refused."""
    upserts: list[Accepted] = []
    replaced: set[str] = set()
    errors: dict[str, str] = {}
    for resource in resources:
        try:
            accepted = accept(holdings.kind, resource)
        except ValueError as error:
            errors[resource.name] = holdings.rejected[resource.name] = str(error)[:MAX_REASON_CHARS]
            continue
        replaced |= holdings.put(accepted, now)
        errors.pop(resource.name, None)
        upserts.append(accepted)
    return upserts, replaced, errors


def _remove(holdings: Holdings, names: Iterable[str], now: float) -> tuple[list[str], set[str]]:
    """Returns the names that are gone, and the keys that stood for them.

    A wanted key may stand among the names: there is no such thing. What is held under it is then out of date, and goes.
    """
    removed: list[str] = []
    keys: set[str] = set()
    for name in names:
        known = holdings.holds(name) or name in holdings.rejected
        for gone in (name,) if known else holdings.named_by(name):
            removed.append(gone)
            keys |= holdings.drop(gone, now)
    return removed, keys


def _drop(holdings: Holdings, names: list[str], now: float) -> list[Effect]:
    """Forgets what nobody asks for any more."""
    if not names:
        return []
    for name in names:
        holdings.drop(name, now)
    return [Update(holdings.kind.type_url, removed=tuple(names))]


def _subscriptions(url: str, fresh: Collection[str], gone: Collection[str]) -> list[Effect]:
    """Requests that add and take back keys, none longer than the limit."""
    added, taken = sorted(fresh), sorted(gone)
    return [
        Send(Request(url, tuple(added[start : start + MAX_KEYS_PER_REQUEST]), tuple(taken[start : start + MAX_KEYS_PER_REQUEST])))
        for start in range(0, max(len(added), len(taken)), MAX_KEYS_PER_REQUEST)
    ]


def _nack(errors: Mapping[str, str]) -> str | None:
    if not errors:
        return None
    return "; ".join(f"{name[:200]}: {error}" for name, error in errors.items())[:MAX_ERROR_CHARS]
