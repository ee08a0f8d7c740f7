"""What the agent holds of one type: accepted versions, rejections, and which of the wanted keys each resource is there for."""

from collections.abc import Collection, Iterable

from meshapi.discovery import Resource
from nodeagent.xds.kinds import Accepted, Kind, Value, keys_of, services_of

STRAY_S = 30.0
"""How long a resource that no wanted key covers is kept, in seconds: what covers it may be under way."""


class Holdings:
    """The resources of one type, and for an on-demand type the keys asked for. Every resource leaves when its last key does."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.wanted: set[str] = set()
        self.rejected: dict[str, str] = {}
        self.answered = False
        self.answered_keys: set[str] = set()
        """Wanted keys that the server was asked about and has sent something for."""
        self._versions: dict[str, str] = {}
        self._keys: dict[str, frozenset[str]] = {}
        self._services: dict[str, tuple[str, ...]] = {}
        self._by_key: dict[str, set[str]] = {}
        self._members: dict[str, set[str]] = {}
        self._strays: dict[str, float] = {}

    def initial_versions(self) -> dict[str, str]:
        """What a new stream begins with: the accepted versions.

        What was refused goes along with no version: the server then sends it again, or says that it is gone. By the last good version alone
        a server that went back to it would say nothing, and the name would stay refused. The same for what a wanted key stands for that
        has not been answered: by its version alone the server would say nothing, and the question would stay open.
        """
        open_keys = self.wanted - self.answered_keys
        asked = (name for key in open_keys for name in self._by_key.get(key, ()))
        return self._versions | dict.fromkeys(self.rejected, "") | dict.fromkeys(asked, "")

    def answer(self, accepted: Accepted) -> list[str]:
        """Notes that a resource came while these keys of it were wanted, and returns them."""
        keys = sorted({key for key in keys_of(accepted) if key in self.wanted})
        self.answered_keys.update(keys)
        return keys

    def holds(self, name: str) -> bool:
        return name in self._versions

    def named_by(self, key: str) -> list[str]:
        """The resources that a wanted key itself stands for."""
        return sorted(self._by_key.get(key, ())) if key in self.wanted else []

    def put(self, accepted: Accepted, now: float) -> frozenset[str]:
        """Takes an accepted resource in place of an earlier one of its name; returns the keys that stood for the earlier one."""
        resource = accepted.resource
        earlier = self._keys.get(resource.name, frozenset())
        self._unlink(resource.name)
        self._versions[resource.name] = resource.version
        self.rejected.pop(resource.name, None)
        if self.kind.on_demand:
            self._link(resource, accepted.value, frozenset(keys_of(accepted)))
            self._note_strays((resource.name,), now)
        return earlier

    def drop(self, name: str, now: float) -> frozenset[str]:
        """Forgets a name; returns the keys that stood for it."""
        keys = self._keys.get(name, frozenset())
        self._unlink(name)
        self._versions.pop(name, None)
        self.rejected.pop(name, None)
        self._strays.pop(name, None)
        self._note_strays(self._members.get(name, ()), now)
        return keys

    def absent(self, keys: Iterable[str]) -> list[str]:
        """Of these keys, those that are wanted and stand for nothing."""
        return sorted({key for key in keys if key in self.wanted and key not in self._by_key})

    def is_covered(self, name: str) -> bool:
        """Whether a wanted key stands for the resource, or for a service that it serves."""
        if not self.wanted.isdisjoint(self._keys.get(name, ())):
            return True
        return any(not self.wanted.isdisjoint(self._keys.get(service, ())) for service in self._services.get(name, ()))

    def give_up(self, keys: Collection[str], now: float) -> None:
        """Notes that nobody wants these keys any more: what only they stood for is a stray from now on.

        It is not dropped at once, since news under way may make another key stand for it, and the server would not send it again.
        """
        self.answered_keys.difference_update(keys)
        touched = {name for key in keys for name in self._by_key.get(key, ())}
        touched |= {member for name in [*touched, *keys] for member in self._members.get(name, ())}
        self._note_strays(touched, now)

    def unwanted(self) -> list[str]:
        """What not to begin a new stream with: of an on-demand type all that no key covers, and what was refused and never accepted."""
        return sorted(name for name in self._versions.keys() | self.rejected.keys() if not self.is_covered(name))

    def strays(self, now: float) -> list[str]:
        """The names that had no wanted key for a while."""
        for name in [name for name in self._strays if self.is_covered(name)]:
            del self._strays[name]
        return sorted(name for name, since in self._strays.items() if now - since >= STRAY_S)

    def _note_strays(self, names: Iterable[str], now: float) -> None:
        for name in names:
            if not self.is_covered(name):
                self._strays.setdefault(name, now)

    def _link(self, resource: Resource, value: Value, keys: frozenset[str]) -> None:
        self._keys[resource.name] = keys
        for key in keys:
            self._by_key.setdefault(key, set()).add(resource.name)
        if services := services_of(value):
            self._services[resource.name] = services
            for service in services:
                self._members.setdefault(service, set()).add(resource.name)

    def _unlink(self, name: str) -> None:
        for key in self._keys.pop(name, ()):
            _discard(self._by_key, key, name)
        for service in self._services.pop(name, ()):
            _discard(self._members, service, name)


def _discard(index: dict[str, set[str]], key: str, name: str) -> None:
    names = index[key]
    names.discard(name)
    if not names:
        del index[key]
