"""nftables of this namespace through libnftables: a transaction, or a listing, in one call.

Tens of times faster than the `nft` program and the same language. A context holds a netlink socket of the namespace it was made in, so
each call makes its own.
"""

import ctypes
import errno
from functools import cache
from typing import Any, Final

import msgspec

from nodeagent.linux import libc
from nodeagent.linux.errors import KernelError
from nodeagent.linux.threads import run_in_thread

_JSON: Final = 1 << 4
_NOBODY_ANSWERS: Final = "cache initialization failed: Invalid argument"
"""The library's words on a kernel without nf_tables: that part of netlink is nobody's."""
_TERSE: Final = 1 << 11
"""Without the members of named sets, which packets may have filled by the hundred thousand. Older libraries list them all the same."""


class Counter(msgspec.Struct, frozen=True):
    """What a rule's counter has seen."""

    packets: int
    bytes: int


class Table(msgspec.Struct, frozen=True):
    """A table as the kernel holds it."""

    comments: tuple[str, ...]
    """Of the rules that have one and no counter, in the table's order."""
    counters: dict[str, Counter]
    """Of the rules that have a comment, by that."""
    content: bytes
    """All of it but handles, and what packets counted and filled in: equal if and only if two tables do the same."""
    sets: tuple[str, ...] = ()
    """The names of those that packets fill."""


def is_there() -> bool:
    """Whether this node has nftables: the library, and what it speaks to in the kernel."""
    try:
        number, words, _ = _run("list tables")
    except KernelError:
        return False
    return number is None or _NOBODY_ANSWERS not in words


def transact(script: str) -> None:
    """Applies a script whole or not at all; raises KernelError with the kernel's words."""
    number, words, _ = _run(script)
    if number is not None:
        raise KernelError(number, "nftables", detail=words or "the transaction was refused")


def table(family: str, name: str) -> Table | None:
    """What the table holds; None if there is none. Raises KernelError."""
    listing = _list(f"table {family} {name}", flags=_JSON | _TERSE)
    return None if listing is None else read_listing(listing)


def has_chain(family: str, table: str, name: str) -> bool:
    """Whether the chain is there. Raises KernelError."""
    return _list(f"chain {family} {table} {name}", flags=_JSON | _TERSE) is not None


def has_members(family: str, table: str, name: str) -> bool:
    """Whether the set is there and has any. Raises KernelError."""
    listing = _list(f"set {family} {table} {name}", flags=_JSON)
    return listing is not None and any(entry.get("set", {}).get("elem") for entry in listing["nftables"])


def _list(subject: str, *, flags: int) -> dict[str, Any] | None:
    number, words, listing = _run(f"list {subject}", flags=flags)
    if number is None:
        decoded: dict[str, Any] = msgspec.json.decode(listing)
        return decoded
    if "No such file or directory" in words:
        return None
    raise KernelError(number, f"nftables {subject}", detail=words)


def tables(family: str) -> list[str]:
    """The names of all tables of a family; raises KernelError."""
    number, words, listing = _run(f"list tables {family}", flags=_JSON)
    if number is not None:
        raise KernelError(number, f"nftables tables of {family}", detail=words)
    return [entry["table"]["name"] for entry in msgspec.json.decode(listing)["nftables"] if "table" in entry]


def read_listing(listing: dict[str, Any]) -> Table:
    """Reads nft's JSON form (libnftables-json(5)) of one table."""
    comments: list[str] = []
    sets: list[str] = []
    counters: dict[str, Counter] = {}
    for entry in listing["nftables"]:
        entry.pop("metainfo", None)
        for thing in entry.values():
            thing.pop("handle", None)
            # Filled by packets, not by who made the table. Of the two flags that such a set has, some versions list but the one.
            if not {"dynamic", "timeout"}.isdisjoint(thing.get("flags", ())):
                thing.pop("elem", None)
                sets.append(thing["name"])
        rule = entry.get("rule", {})
        counted = [expression for expression in rule.get("expr", ()) if "counter" in expression]
        comment = rule.get("comment", "")
        if comment and not counted:
            comments.append(comment)
        for expression in counted:
            counters[comment] = msgspec.convert(expression["counter"], Counter)
            expression["counter"] = None
    return Table(tuple(comments), counters, msgspec.json.encode(listing), tuple(sets))


def _run(script: str, *, flags: int = 0) -> tuple[int | None, str, bytes]:
    """Runs a script in a context of its own: errno or None, the library's words, its output."""
    library = _library()

    def run() -> tuple[int | None, str, bytes]:
        context = ctypes.c_void_p(library.nft_ctx_new(0))
        if not context:
            raise KernelError(errno.ENOMEM, "libnftables context")
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            library.nft_ctx_output_set_flags(context, flags)
            ctypes.set_errno(0)
            failed = library.nft_run_cmd_from_buffer(context, script.encode()) != 0
            number = (ctypes.get_errno() or errno.EINVAL) if failed else None
            words = (library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace").strip()
            return number, words, library.nft_ctx_get_output_buffer(context) or b""
        finally:
            library.nft_ctx_free(context)

    return run_in_thread("nftables", _empty_files, run)


def _empty_files() -> None:
    # The library ends the process when it can't get a descriptor for its socket. With a descriptor table of its own, and nothing in it,
    # there is always one, even when the process has run out.
    libc.unshare(libc.CLONE_FILES)
    libc.close_from(3)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1", use_errno=True)
    except OSError as error:
        raise KernelError(errno.ENOENT, "libnftables.so.1", "install the package libnftables1") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library
