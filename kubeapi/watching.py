"""Listing and watching one kind, without any I/O: what to ask next, and which objects are new, changed or gone.

    listing --last page--> watching --ended, failed, silent--> watching, from the last version seen
       ^                      |
       +---- 410, or a -------+
             version that the server does not have

Listing is needed at the start, and when the server no longer knows what happened since the last version seen. An object is gone if a
watch says so, or if a whole list has come without it; a list that breaks in the middle proves nothing.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from kubeapi.backoff import Backoff

PAGE_SIZE: Final = 500
WATCH_S: Final = 300.0
"""The server is asked to end a watch after this and up to twice of it, so that not all come back at once."""
SHORT_WATCH_S: Final = 1.0
"""A watch that ended sooner, with nothing in it, counts as a failure: else it would be opened without a pause for ever."""
_GONE: Final = 410
_WAITS: Final = frozenset({0, 401, 403, 404, 408, 429, 500, 502, 503})
"""Failures of a watch that say nothing about its version: it is opened again where it was."""

Name = tuple[str, str]
"""Namespace and name."""


class Item(Struct, frozen=True):
    """An object as it came: `raw` is its JSON."""

    namespace: str
    name: str
    version: str
    raw: bytes

    @property
    def key(self) -> Name:
        return (self.namespace, self.name)


class GetPage(Struct, frozen=True):
    """Ask for a page of the list; limit 0 = all in one."""

    continue_token: str = ""
    limit: int = PAGE_SIZE


class OpenWatch(Struct, frozen=True):
    """Ask for all events after a version."""

    version: str
    timeout_s: int


class Pause(Struct, frozen=True):
    """Wait, then say so with `rested`."""

    seconds: float


Todo = GetPage | OpenWatch | Pause


class Page(Struct, frozen=True):
    """A page that came; the last one has no token."""

    items: tuple[Item, ...]
    continue_token: str
    version: str


class Seen(Struct, frozen=True):
    """An object was added or modified."""

    item: Item


class Deleted(Struct, frozen=True):
    item: Item


class Bookmark(Struct, frozen=True):
    """Nothing changed up to this version."""

    version: str


Event = Seen | Deleted | Bookmark


class Delivery(Struct, frozen=True):
    """What the listener learns: objects that are there, and those that are gone."""

    present: tuple[Item, ...] = ()
    gone: tuple[Name, ...] = ()


class Watching:
    """One kind. `todo` is what to do now; each call tells how that went, and returns what it taught."""

    def __init__(self, random: Callable[[], float], known: dict[Name, str] | None = None, *, page_size: int = PAGE_SIZE) -> None:
        """`known`: the versions that were delivered before, by an earlier watch of the same objects."""
        self._page_size = page_size
        self._random = random
        self._backoff = Backoff(random)
        self.known: dict[Name, str] = known or {}
        self.listed = False
        """Whether a whole list has been delivered."""
        self.lists = 0
        self._listed_names: set[Name] = set()
        self._expired_pages = 0
        self._next: GetPage | OpenWatch = GetPage(limit=page_size)
        self._pause: Pause | None = None
        self._heard = False

    @property
    def todo(self) -> Todo:
        return self._pause or self._next

    def rested(self) -> None:
        """The pause is over."""
        self._pause = None

    def page(self, page: Page) -> Delivery:
        """The page that was asked for."""
        fresh = tuple(item for item in page.items if self.known.get(item.key) != item.version)
        self._listed_names.update(item.key for item in page.items)
        for item in fresh:
            self.known[item.key] = item.version
        if page.continue_token:
            self._next = GetPage(page.continue_token, self._page_size)
            return Delivery(fresh)
        gone = tuple(key for key in self.known if key not in self._listed_names)
        for key in gone:
            del self.known[key]
        self._listed_names = set()
        self._expired_pages = 0
        self.listed = True
        self.lists += 1
        self._watch(page.version)
        return Delivery(fresh, gone)

    def event(self, event: Event) -> Delivery:
        """Something from the watch."""
        self._backoff.success()
        self._heard = True
        match event:
            case Bookmark(version):
                self._watch(version)
                return Delivery()
            case Seen(item):
                self._watch(item.version)
                if self.known.get(item.key) == item.version:
                    return Delivery()
                self.known[item.key] = item.version
                return Delivery(present=(item,))
            case Deleted(item):
                self._watch(item.version)
                return Delivery(gone=(item.key,)) if self.known.pop(item.key, None) is not None else Delivery()

    def ended(self, lasted_s: float) -> None:
        """The watch ended in order: the server closed it, or it has been silent for too long."""
        if lasted_s < SHORT_WATCH_S and not self._heard:
            self._pause = Pause(self._backoff.after_failure())
        else:
            self._backoff.success()
        self._heard = False

    def failed(self, status: int, retry_after_s: float = 0.0) -> None:
        """What was asked for was refused with this HTTP status, or broke (0)."""
        self._heard = False
        self._pause = Pause(self._backoff.after_failure(retry_after_s))
        match self._next:
            case GetPage(token) if token and status == _GONE:
                # The server keeps a list's state for minutes only. Should that not be enough twice, all is asked for at once.
                self._expired_pages += 1
                self._relist(0 if self._expired_pages > 1 else self._page_size)
            case OpenWatch() if status not in _WAITS:
                self._relist(self._page_size)

    def _relist(self, limit: int) -> None:
        self._listed_names = set()
        self._next = GetPage(limit=limit)

    def _watch(self, version: str) -> None:
        self._next = OpenWatch(version, int(WATCH_S * (1 + self._random())))
