"""One discovery stream as a state machine without I/O: `step` takes what happened and returns what to send."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from msgspec import Struct

from control.resources import ResourceView, TypeURL
from control.xds.keys import Touched
from control.xds.subscription import RequestError, Subscription
from meshapi import discovery

MAX_TEXT = 1000
MAX_UNKNOWN_TYPES = 16


@dataclass(frozen=True)
class Received:
    """A request came in."""

    request: discovery.Request
    now_s: float


@dataclass(frozen=True)
class Changed:
    """The model changed: by type, in the order in which it is to be told."""

    touched: Mapping[TypeURL, Touched]


@dataclass(frozen=True)
class Ticked:
    """Time has passed."""

    now_s: float


Event = Received | Changed | Ticked


class Nack(Struct, frozen=True):
    """What a client refused last; `message` is its own text."""

    at_s: float
    message: str


class TypeStatus(Struct, frozen=True):
    """How far a client is with one type. `pending`: it has not acknowledged everything yet."""

    type_url: str
    wildcard: bool
    keys: int
    held: int
    pending: bool
    acks: int
    nacks: int
    acked_s: float | None
    last_nack: Nack | None


class _Progress(Struct):
    acks: int = 0
    nacks: int = 0
    acked_s: float | None = None
    last_nack: Nack | None = None


class Stream:
    """The state of one stream."""

    def __init__(self, views: Mapping[TypeURL, ResourceView]) -> None:
        self._views = dict(views)
        self._subscriptions: dict[TypeURL, Subscription] = {}
        self._progress: dict[TypeURL, _Progress] = {}
        self._responses = 0
        self.node = discovery.Node()
        """As the client introduced itself: a claim."""
        self.unknown_types: set[str] = set()
        """Types that this controller does not have; nothing is answered, since an empty answer would claim that there are none."""

    def step(self, event: Event) -> list[discovery.Response]:
        """Returns what to send, at most one response per type; raises RequestError if the stream must end."""
        match event:
            case Changed(touched):
                types = [type_url for type_url in touched if type_url in self._subscriptions]
                for type_url in types:
                    self._subscriptions[type_url].touch(touched[type_url])
                return self._answers(types)
            case Received(request, now_s):
                type_url = TypeURL(request.type_url)
                if self._receive(type_url, request, now_s) is None:
                    return []
            case Ticked(now_s):
                return self._ticked(now_s)
        return self._answers([type_url])

    def _answers(self, types: Collection[TypeURL]) -> list[discovery.Response]:
        """What to send after something happened to some types."""
        return [response for type_url in types for response in self._next(type_url, self._subscriptions[type_url])]

    def _ticked(self, now_s: float) -> list[discovery.Response]:  # noqa: ARG002 -- for streams that wait for something
        return []

    def _next(self, type_url: TypeURL, subscription: Subscription, *, removals: bool = True) -> list[discovery.Response]:
        """At most one response of a type."""
        response = subscription.next_response(f"{self._responses + 1}", removals=removals)
        if response is None:
            return []
        self._responses += 1
        self._under_way(type_url, response)
        return [response]

    def _under_way(self, type_url: TypeURL, response: discovery.Response) -> None:
        """A response is about to be sent."""

    def add_views(self, views: Mapping[TypeURL, ResourceView]) -> None:
        """From now on these types are served, too."""
        self._views.update(views)

    def wants_all(self, type_url: TypeURL) -> bool:
        """Whether the client asks for every resource of a type."""
        found = self._subscriptions.get(type_url)
        return found is not None and found.wildcard

    @property
    def nacks(self) -> int:
        """How many responses the client refused."""
        return sum(progress.nacks for progress in self._progress.values())

    def status(self) -> list[TypeStatus]:
        return [self._status(type_url, subscription) for type_url, subscription in sorted(self._subscriptions.items())]

    def _receive(self, type_url: TypeURL, request: discovery.Request, now_s: float) -> Subscription | None:
        if request.node is not None:
            self.node = request.node
        view = self._views.get(type_url)
        if view is None:
            self._note_unknown(type_url)
            return None
        subscription = self._subscriptions.get(type_url)
        if subscription is None:
            subscription = self._subscriptions[type_url] = Subscription(type_url, view, request)
            self._progress[type_url] = _Progress()
            return subscription
        if subscription.acknowledged(request.nonce):
            self._note_answer(self._progress[type_url], request, now_s)
            self._answered(type_url, request, now_s)
        subscription.request(request)
        return subscription

    def _note_unknown(self, type_url: TypeURL) -> None:
        self.unknown_types.add(type_url[:MAX_TEXT])
        if len(self.unknown_types) > MAX_UNKNOWN_TYPES:
            raise RequestError("asks for too many types that do not exist")

    def _answered(self, type_url: TypeURL, request: discovery.Request, now_s: float) -> None:
        """The client has acknowledged or refused the response under way."""

    @staticmethod
    def _note_answer(progress: _Progress, request: discovery.Request, now_s: float) -> None:
        if request.error is None:
            progress.acks += 1
            progress.acked_s = now_s
        else:
            progress.nacks += 1
            progress.last_nack = Nack(now_s, request.error[:MAX_TEXT])

    def _status(self, type_url: TypeURL, subscription: Subscription) -> TypeStatus:
        progress = self._progress[type_url]
        return TypeStatus(
            type_url=type_url,
            wildcard=subscription.wildcard,
            keys=len(subscription.keys),
            held=subscription.held,
            pending=subscription.pending,
            acks=progress.acks,
            nacks=progress.nacks,
            acked_s=progress.acked_s,
            last_nack=progress.last_nack,
        )
