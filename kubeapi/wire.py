"""What the API server sends: pages of a list, and a watch's events, one JSON object a line."""

from typing import Final

import msgspec
from msgspec import Struct

from kubeapi.client import Status
from kubeapi.watching import Bookmark, Deleted, Event, Item, Page, Seen

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""etcd holds objects of 1.5 MB, by default."""


class WireError(Exception):
    """An answer that is not what the API server sends. `status` is the HTTP status that stands for it, 0 if none does."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Meta(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Head(Struct, frozen=True):
    metadata: _Meta = _Meta()


class _ListMeta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class _List(Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[msgspec.Raw] | None = None


class _Event(Struct, frozen=True):
    type: str
    object: msgspec.Raw


_list: Final = msgspec.json.Decoder(_List)
_head: Final = msgspec.json.Decoder(_Head)
_event: Final = msgspec.json.Decoder(_Event)
_status: Final = msgspec.json.Decoder(Status)
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_page(body: bytes) -> Page:
    """Raises WireError."""
    try:
        page = _list.decode(body)
        items = tuple(_item(raw) for raw in page.items or ())
    except _BROKEN as error:
        raise WireError(f"a list that can't be read: {error}") from error
    if not page.metadata.resource_version:
        raise WireError("a list without a version")
    return Page(items, page.metadata.continue_token, page.metadata.resource_version)


def read_event(line: bytes) -> Event:
    """Raises WireError, also for an event that says that the watch has failed."""
    try:
        event = _event.decode(line)
        if event.type == "ERROR":
            status = _status.decode(event.object)
            raise WireError(f"{status.reason}: {status.message}", status.code)
        item = _item(event.object)
    except _BROKEN as error:
        # Asked for again from the same version, it would come again.
        raise WireError(f"an event that can't be read: {error}", status=410) from error
    match event.type:
        case "ADDED" | "MODIFIED":
            return Seen(item)
        case "DELETED":
            return Deleted(item)
        case "BOOKMARK":
            return Bookmark(item.version)
    raise WireError(f"an event of type {event.type[:40]!r}", status=410)


def _item(raw: msgspec.Raw) -> Item:
    meta = _head.decode(raw).metadata
    if not meta.resource_version:
        raise WireError("an object without a version")
    return Item(meta.namespace, meta.name, meta.resource_version, bytes(raw))


class Lines:
    """Cuts a stream of pieces into lines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that are whole now; raises WireError for one that does not end."""
        *whole, rest = piece.split(b"\n")
        if whole:
            whole[0] = bytes(self._rest) + whole[0]
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > MAX_LINE_BYTES:
            raise WireError(f"an event of more than {MAX_LINE_BYTES} bytes")
        return [line for line in whole if line.strip()]
