"""What resolvers answered, for as long as they said: of one workload, bounded, the least used going first. Sans-IO."""

from typing import Final, NamedTuple

from nodeagent.dns.wire import Query, Response

MAX_ENTRIES: Final = 1000
MAX_BYTES: Final = 512 * 1024
MAX_LIFE_S: Final = 3600
MAX_NEGATIVE_LIFE_S: Final = 300
"""That there is nothing is believed for five minutes at most, whatever the authority says (RFC 2308 has hours)."""
_ENTRY_BYTES: Final = 500
"""What an entry takes beside its packet."""


class Key(NamedTuple):
    """Two questions with one key have one answer: of the same resolver, with the same wishes."""

    server: str
    name: bytes
    """The question's section in lower case."""
    flags: int
    dnssec: bool | None
    by_tcp: bool


class Entry(NamedTuple):
    packet: bytes
    response: Response
    stored_s: float
    until_s: float


class Cache:
    """Times are of the monotonic clock, in seconds."""

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: dict[Key, Entry] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def get(self, key: Key, now: float) -> Entry | None:
        """What still holds."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        del self._entries[key]
        if entry.until_s <= now:
            self._bytes -= _size(entry)
            return None
        self._entries[key] = entry  # the last one used comes last
        return entry

    def put(self, key: Key, packet: bytes, response: Response, now: float) -> None:
        """Keeps an answer, if it says that it may be kept."""
        if not response.lives_s:
            return
        limit_s = MAX_LIFE_S if response.code == 0 else MAX_NEGATIVE_LIFE_S
        entry = Entry(packet, response, now, now + min(response.lives_s, limit_s))
        if _size(entry) > self._max_bytes:
            return
        former = self._entries.pop(key, None)
        self._bytes += _size(entry) - (_size(former) if former else 0)
        self._entries[key] = entry
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._bytes -= _size(self._entries.pop(next(iter(self._entries))))


def key_of(query: Query, server: str, *, by_tcp: bool) -> Key:
    dnssec = query.extension.dnssec if query.extension else None
    # Only ASCII letters change: lengths of labels and the type behind them are never such.
    name = query.question[:-4].lower() + query.question[-4:]
    return Key(server, name, query.flags & 0x0130, dnssec, by_tcp)


def _size(entry: Entry) -> int:
    return len(entry.packet) + _ENTRY_BYTES + 40 * len(entry.response.ttl_at)
