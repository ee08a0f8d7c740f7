"""Where the access log goes: a file that is rotated by size, standard output, or the journal. All calls block."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from nodeagent.telemetry.records import Record, as_entry
from systemdapi import journal
from systemdapi.journal import Journal

MAX_FILE_BYTES: Final = 64 << 20
KEPT_FILES: Final = 3
PROGRAM: Final = "nodeagent"
"""As the journal has it."""


class Sink(Protocol):
    def write(self, records: Sequence[Record]) -> None:
        """Writes them all; raises OSError. What failed is written again, perhaps with more behind it."""


class TakesLines(Protocol):
    def write(self, lines: bytes) -> None:
        """Writes whole lines, all or none; raises OSError."""


class Lines:
    """A line for each record."""

    def __init__(self, target: TakesLines, render: Callable[[Record], str]) -> None:
        self._target = target
        self._render = render

    def write(self, records: Sequence[Record]) -> None:
        """See `Sink`."""
        self._target.write("".join(f"{self._render(one)}\n" for one in records).encode("utf-8", "backslashreplace"))


class Entries:
    """An entry of the journal for each record, with its fields."""

    def __init__(self, journal: Journal, program: str) -> None:
        self._journal = journal
        self._program = program
        self._taken = 0
        """Of a batch that could not be written to its end."""

    def write(self, records: Sequence[Record]) -> None:
        """See `Sink`."""
        for one in records[self._taken :]:
            self._journal.send({"SYSLOG_IDENTIFIER": self._program, **as_entry(one)})
            self._taken += 1
        self._taken = 0


class StandardOutput:
    def write(self, lines: bytes) -> None:
        """Writes them all, also where the other end of the pipe takes a part at a time."""
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()


class RotatedFile:
    """`path`, and beside it `path.1` (the newest) to `path.N`; private, since it says who talks to whom."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_FILE_BYTES, kept_files: int = KEPT_FILES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._kept_files = kept_files

    def write(self, lines: bytes) -> None:
        """Opens the file anew, so that one that was moved away is made again; a batch is never split over two files."""
        descriptor = self._open()
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes and size_bytes + len(lines) > self._max_bytes:
                os.close(descriptor)
                descriptor = -1
                self._rotate()
                descriptor = self._open()
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        for number in range(self._kept_files - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def sink_of(path: Path | None, render: Callable[[Record], str]) -> Sink:
    """A file, or standard output: the journal's own entries where that is what it leads to."""
    if path is not None:
        return Lines(RotatedFile(path), render)
    if own := journal.of_standard_output():
        return Entries(own, PROGRAM)
    return Lines(StandardOutput(), render)
