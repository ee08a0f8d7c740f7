"""What one stream knows of one resource type, as a state machine without I/O.

It holds what the client asked for (everything, or keys), what each key stands for, and what the client has. What may differ is noted
as *dirty*; `next_response` looks at what is dirty, as it is then, and says what to send. So a resource that changed ten times while an
answer was under way is sent once, and what waits is bounded by the number of resources. One response is under way at a time, and
none is long, but the first about everything: agents take that for the whole, and would decide without the policies of a second part.

The client's view is kept equal to what it asked for: what it asked for and is gone, and what it no longer asks for, is removed by
name. A key that stands for nothing is answered as removed, so that the client knows, and is sent when it comes to be.
"""

from collections.abc import Collection
from typing import Final

from control.resources import Resource, ResourceView, TypeURL
from control.xds.keys import Touched, keys_of
from meshapi import discovery

WILDCARD: Final = "*"
MAX_RESPONSE_RESOURCES: Final = 1000
MAX_RESPONSE_BYTES: Final = 2 * 1024 * 1024
MAX_KEYS: Final = 200_000
MAX_KEY_CHARACTERS: Final = 1024
UNKNOWN_VERSION: Final = ""


class RequestError(ValueError):
    """A request that breaks the protocol: it ends its stream."""


class Subscription:
    """One type of one stream."""

    def __init__(self, type_url: TypeURL, view: ResourceView, first: discovery.Request) -> None:
        self._type_url = type_url
        self._view = view
        self._wildcard = False
        self._names_of: dict[str, frozenset[str]] = {}
        """Key -> the names that it stands for, members included, as of when it was last looked at."""
        self._keys_of: dict[str, tuple[str, ...]] = {}
        """Name -> the keys that stand for it: the reverse. One for each resource of each stream, and a set is four times a tuple."""
        self._held: dict[str, str] = {}
        """What the client has: name -> version."""
        self._vouched = set(first.initial_versions)
        """What the client said on this stream that it has, and was sent nothing for since."""
        self._told_absent: set[str] = set()
        self._dirty_keys: dict[str, None] = {}
        self._dirty_names: dict[str, None] = {}
        self._alone: set[str] = set()
        """Names that are sent in a response of their own, since one of them was refused and it is not known which."""
        self._answered = False
        self._outstanding = ""
        self._start(first)

    @property
    def wildcard(self) -> bool:
        return self._wildcard

    @property
    def keys(self) -> Collection[str]:
        return self._names_of.keys()

    @property
    def held(self) -> int:
        """How many resources the client has."""
        return len(self._held)

    @property
    def pending(self) -> bool:
        """Whether the client may be behind the model."""
        return bool(self._outstanding or self._dirty_keys or self._dirty_names)

    @property
    def news(self) -> bool:
        """Whether something is to be sent that the client does not have; what it has and should not is no news."""
        return any(not self._only_goes(key) for key in self._dirty_keys) or any(self._wanted(one) is not None for one in self._dirty_names)

    @property
    def waits_for_answer(self) -> bool:
        return bool(self._outstanding)

    def holds(self, name: str) -> bool:
        """Whether the client was sent a resource, in whatever version."""
        return name in self._held

    def send_again(self, names: Collection[str]) -> None:
        """The client needs these anew, whatever it was sent; those that it did not ask for are left out."""
        for name in names:
            if name in self._held:
                self._held[name] = UNKNOWN_VERSION
                self._dirty_names[name] = None

    def send_alone(self, names: Collection[str]) -> None:
        """Sends these again, each in a response of its own."""
        self._alone |= set(names) & self._held.keys()
        self.send_again(names)

    def request(self, request: discovery.Request) -> None:
        """Takes a request after the first: subscriptions, and whether it answers the response under way."""
        if request.initial_versions:
            raise RequestError("initial versions belong in the first request of a type")
        self._subscribe(request.subscribe)
        # Each name once: several keys of one request may stand for it.
        for name in dict.fromkeys(name for key in request.subscribe for name in self._view.resolve(self._type_url, key)):
            self._send_again(name)
        self._unsubscribe(request.unsubscribe)

    def acknowledged(self, nonce: str) -> bool:
        """Whether `nonce` is that of the response under way, which then is no longer. An old nonce changes nothing."""
        if not nonce or nonce != self._outstanding:
            return False
        self._outstanding = ""
        return True

    def touch(self, touched: Touched) -> None:
        """Notes changes of the model."""
        for name, keys in touched.items():
            if self._wildcard or name in self._keys_of or name in self._held:
                self._dirty_names[name] = None
            for key in (name, *keys):
                if key in self._names_of:
                    self._dirty_keys[key] = None
                # A key that stands for a service, by an address say, also stands for the service's members.
                for other in self._keys_of.get(key, ()):
                    self._dirty_keys[other] = None

    def next_response(self, nonce: str, *, removals: bool = True) -> discovery.Response | None:
        """What to send now; None while a response is under way or nothing differs. The first request is always answered.

        Without `removals` the client keeps for now what it should not have.
        """
        if self._outstanding:
            return None
        removed = self._look_at_keys(removals=removals)
        resources = self._look_at_names(removed, removals=removals)
        if not resources and not removed and self._answered:
            return None
        self._answered = True
        self._outstanding = nonce
        return discovery.Response(self._type_url, nonce, tuple(resources), tuple(removed))

    def _start(self, first: discovery.Request) -> None:
        self._held = dict(first.initial_versions)
        if not first.subscribe:
            self._want_everything()
        elif WILDCARD in first.unsubscribe:
            # Asking for everything and for none of it in one request is how a client says "nothing yet".
            self._subscribe([key for key in first.subscribe if key != WILDCARD])
        else:
            self._subscribe(first.subscribe)
        self._unsubscribe(first.unsubscribe)
        if not self._wildcard:
            # Istio's agents name what they had only here when they come back.
            self._subscribe([name for name in first.initial_versions if name not in self._keys_of])
        self._dirty_names.update(dict.fromkeys(self._held))

    def _send_again(self, name: str) -> None:
        """What is asked for by name is sent, whatever was sent before: the client may have dropped it (xDS, delta protocol).

        Not so what it said to have when it came back, and now asks for: else each restart of the controller would send everything anew.
        """
        if name in self._vouched:
            self._vouched.discard(name)
        elif name in self._held:
            self._held[name] = UNKNOWN_VERSION
            self._dirty_names[name] = None

    def _want_everything(self) -> None:
        self._wildcard = True
        self._dirty_names.update(dict.fromkeys(self._view.names(self._type_url)))

    def _subscribe(self, keys: Collection[str]) -> None:
        for key in keys:
            if key == WILDCARD:
                self._want_everything()
                continue
            if len(key) > MAX_KEY_CHARACTERS:
                raise RequestError(f"a key of {len(key)} characters")
            self._names_of.setdefault(key, frozenset())
            self._told_absent.discard(key)
            self._dirty_keys[key] = None
        if len(self._names_of) > MAX_KEYS:
            raise RequestError(f"more than {MAX_KEYS} keys")

    def _unsubscribe(self, keys: Collection[str]) -> None:
        for key in keys:
            if key == WILDCARD:
                self._wildcard = False
                self._dirty_names.update(dict.fromkeys(self._held))
                continue
            for name in self._names_of.pop(key, ()):
                self._unlink(key, name)
            self._dirty_keys.pop(key, None)
            self._told_absent.discard(key)

    def _unlink(self, key: str, name: str) -> None:
        keys = tuple(other for other in self._keys_of[name] if other != key)
        if keys:
            self._keys_of[name] = keys
        else:
            del self._keys_of[name]
        self._dirty_names[name] = None

    def _only_goes(self, key: str) -> bool:
        """Whether all that there is to say of a key is that what it stood for is gone."""
        return bool(self._names_of[key]) and not self._view.resolve(self._type_url, key)

    def _look_at_keys(self, *, removals: bool) -> dict[str, None]:
        """Resolves the dirty keys again; returns those that stand for nothing and whose asker does not know."""
        absent: dict[str, None] = {}
        for key in tuple(self._dirty_keys):
            if len(absent) >= MAX_RESPONSE_RESOURCES:
                break
            if not removals and self._only_goes(key):
                continue
            del self._dirty_keys[key]
            before, now = self._names_of[key], self._resolve(key)
            self._names_of[key] = now
            for name in before - now:
                self._unlink(key, name)
            for name in sorted(now - before):
                self._keys_of[name] = (*self._keys_of.get(name, ()), key)
                self._dirty_names[name] = None
            if now:
                self._told_absent.discard(key)
            elif key not in self._told_absent:
                self._told_absent.add(key)
                absent[key] = None
        return absent

    def _resolve(self, key: str) -> frozenset[str]:
        direct = self._view.resolve(self._type_url, key)
        return frozenset(direct).union(*(self._view.members(self._type_url, name) for name in direct))

    def _wanted(self, name: str) -> Resource | None:
        """The resource that is to be sent under a name, if it is asked for and the client does not have it."""
        resource = self._view.get(self._type_url, name) if self._wildcard or name in self._keys_of else None
        return resource if resource is not None and self._held.get(name) != resource.version else None

    def _look_at_names(self, removed: dict[str, None], *, removals: bool) -> list[discovery.Resource]:
        """Compares the dirty names with what the client has; adds to `removed` and returns what to send, up to the bounds."""
        resources: list[discovery.Resource] = []
        size_bytes = 0
        whole = self._wildcard and not self._answered
        for name in tuple(self._dirty_names):
            if not whole and len(resources) + len(removed) >= MAX_RESPONSE_RESOURCES:
                break
            wanted = self._wildcard or name in self._keys_of
            resource = self._view.get(self._type_url, name) if wanted else None
            if resource is None and name in self._held and not removals:
                continue
            if resource is None:
                self._vouched.discard(name)
                if self._held.pop(name, None) is not None:
                    removed[name] = None
            elif self._held.get(name) != resource.version:
                alone = name in self._alone
                if resources and (alone or (not whole and size_bytes + len(resource.body) > MAX_RESPONSE_BYTES)):
                    break
                size_bytes += len(resource.body)
                resources.append(self._sent(resource))
                if alone:
                    self._alone.discard(name)
                    del self._dirty_names[name]
                    break
            del self._dirty_names[name]
        return resources

    def _sent(self, resource: Resource) -> discovery.Resource:
        self._held[resource.name] = resource.version
        self._vouched.discard(resource.name)
        aliases = () if self._wildcard else keys_of(self._type_url, resource).aliases
        return discovery.Resource(resource.name, resource.version, resource.body, aliases)
