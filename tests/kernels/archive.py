"""A cpio archive in the form that kernels unpack as their first root (Documentation/driver-api/early-userspace/buffer-format.rst)."""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT = 4


@dataclass(frozen=True)
class Entry:
    """A file (`source`, or `content`), a symbolic link (`target`), or a directory (none of them)."""

    source: Path | None = None
    content: bytes | None = None
    target: str | None = None


def blocks(entries: Mapping[str, Entry]) -> Iterator[bytes]:
    """The archive of `entries` (by absolute path), parents made where they are missing, in pieces."""
    complete = dict(entries)
    for path in entries:
        for parent in list(Path(path).parents)[:-1]:
            complete.setdefault(str(parent), Entry())
    for number, (path, entry) in enumerate(sorted(complete.items()), start=1):
        mode, mtime, content = _read(entry)
        yield _header(number, mode, mtime, len(content), path.removeprefix("/"))
        yield content + bytes(-len(content) % ALIGNMENT)
    yield _header(0, 0, 0, 0, "TRAILER!!!")


def _read(entry: Entry) -> tuple[int, int, bytes]:
    """Mode, time of change (Python's compiled files know their sources by it), content."""
    if entry.target is not None:
        return stat.S_IFLNK | 0o777, 0, entry.target.encode()
    if entry.content is not None:
        return stat.S_IFREG | 0o755, 0, entry.content
    if entry.source is not None:
        status = entry.source.stat()
        return stat.S_IFREG | stat.S_IMODE(status.st_mode), int(status.st_mtime), entry.source.read_bytes()
    return stat.S_IFDIR | 0o755, 0, b""


def _header(inode: int, mode: int, mtime: int, size: int, name: str) -> bytes:
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device (major, minor), what it is a device of (the same), length of the name, no checksum
    fields = (inode, mode, 0, 0, 1, mtime, size, 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return header + bytes(-len(header) % ALIGNMENT)
