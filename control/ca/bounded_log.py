"""A private file of lines that is bounded in size: when it is full it is kept under a number, and the oldest goes."""

import errno
import os
from pathlib import Path

KEPT_FILES = 5


class BoundedLog:
    """Appends to `path`, and keeps `path.1` (the last one) to `path.4`."""

    def __init__(self, path: Path, max_file_bytes: int) -> None:
        self._path = path
        self._max_file_bytes = max_file_bytes
        self._torn: bool = False
        """The last line is there only in part."""
        self._open()

    def write(self, line: bytes) -> None:
        """Appends a line, which comes without its end. Raises OSError if it can't be written."""
        line += b"\n"
        if self._size_bytes + len(line) > self._max_file_bytes:
            self._rotate()
        if self._torn:
            line = b"\n" + line
        written = self._file.write(line)
        self._size_bytes += written
        # On a full disk the kernel takes a part, and calls that a success.
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, "only a part of the line could be written", str(self._path))

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._size_bytes = os.fstat(descriptor).st_size
        self._torn = False

    def _rotate(self) -> None:
        for age in range(KEPT_FILES - 1, 0, -1):
            older = self._path if age == 1 else self._path.with_name(f"{self._path.name}.{age - 1}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{age}"))
        former = self._file
        self._open()
        former.close()
