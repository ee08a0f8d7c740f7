"""Private files that are whole or not there: replaced in one step, with a checksum, set aside when they are damaged."""

import hashlib
import logging
import os
import stat
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_MAGIC: Final = b"nodemesh state 1 "
_ASIDE: Final = ".damaged"
_DIGEST_CHARS: Final = 64
_HEADER_BYTES: Final = len(_MAGIC) + _DIGEST_CHARS + 1


class StateError(OSError):
    """The state directory can't be trusted or used."""


class StateDirectory:
    """Files of one owner. All calls block: not for the event loop's thread, except at start."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Makes the directory, or checks that nobody else can write or read in it; raises StateError."""
        private_directory(self.path)
        for draft in self.path.glob(".*.draft"):
            draft.unlink()

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none, or it was damaged (then it is set aside and a line is logged)."""
        file = self.path / name
        try:
            raw = file.read_bytes()
        except FileNotFoundError:
            return None
        body = _checked(raw)
        if body is None:
            self.set_aside(name, "its checksum is wrong")
        return body

    def names(self, prefix: str) -> list[str]:
        """The files whose names begin so, without what was set aside."""
        found = (file.name for file in self.path.iterdir())
        return sorted(name for name in found if name.startswith(prefix) and not name.endswith(_ASIDE))

    def set_aside(self, name: str, why: str) -> None:
        """Keeps a file that can't be used under another name, for whoever wants to look; only the last one is kept."""
        aside = self.path / f"{name}{_ASIDE}"
        (self.path / name).replace(aside)
        log.error("%s can't be used, %s: set aside as %s, starting without it", self.path / name, why, aside.name)

    def write(self, name: str, body: bytes) -> None:
        """Replaces a file; after a crash at any moment either the old or the new one is there, whole."""
        draft = self.path / f".{name}.draft"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            stream.flush()
            os.fsync(descriptor)
        draft.replace(self.path / name)
        self._sync()

    def delete(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def private_directory(path: Path) -> None:
    """Makes a directory that only its owner can enter, or makes an own one so; raises StateError if it is somebody else's."""
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise StateError(f"{path} is no directory")
    if info.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to user {info.st_uid}, not to {os.geteuid()}: who writes there could say what is trusted")
    if stat.S_IMODE(info.st_mode) & 0o077:
        path.chmod(DIRECTORY_MODE)


def _checked(raw: bytes) -> bytes | None:
    """The body behind a header that fits it."""
    body = raw[_HEADER_BYTES:]
    expected = _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    return body if raw[:_HEADER_BYTES] == expected else None
