"""The audit log: one JSON line for each certificate granted or refused, in a private file of bounded size.

A flood of refusals can't push the grants out of it: of the same refusal to the same caller only a few lines a second are
written, and the next one says how many were left out. A certificate that can't be recorded is not handed out.
"""

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

MAX_FILE_BYTES = 10 * 1024 * 1024
KEPT_FILES = 5
MAX_TEXT = 400
REFUSALS_PER_WINDOW = 5
WINDOW_S = 1.0
MAX_WINDOWS = 4096


class AuditRecord(Struct, frozen=True, omit_defaults=True):
    """`outcome` is granted or refused; `check` and `detail` say why it was refused, `suppressed` how many like it had no line."""

    operation: str
    outcome: str
    caller: str
    peer: str
    node: str = ""
    identity: str = ""
    serial: str = ""
    not_after: str = ""
    check: str = ""
    detail: str = ""
    suppressed: int = 0


class _Window(Struct):
    opened_s: float
    written: int = 0
    suppressed: int = 0


class AuditLog:
    """Appends to `path`, and keeps `path.1` (the last one) to `path.4`."""

    def __init__(self, path: Path, clock: Callable[[], float], max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._path = path
        self._clock = clock
        self._max_file_bytes = max_file_bytes
        self._windows: dict[tuple[str, str], _Window] = {}
        self._torn: bool = False
        """The last line is there only in part."""
        self._open()

    def granted(self, record: AuditRecord) -> None:
        """Raises OSError if it can't be written."""
        self._write(record)

    def refused(self, record: AuditRecord) -> None:
        """Raises OSError if it can't be written."""
        now_s = self._clock()
        key = (record.caller or record.peer.rpartition(":")[0], record.check)
        window = self._windows.get(key)
        if window is None or not 0 <= now_s - window.opened_s < WINDOW_S:
            suppressed = window.suppressed if window else 0
            if len(self._windows) >= MAX_WINDOWS:
                self._windows = {}
            self._windows[key] = _Window(opened_s=now_s, written=1)
            self._write(msgspec.structs.replace(record, suppressed=suppressed))
        elif window.written < REFUSALS_PER_WINDOW:
            window.written += 1
            self._write(record)
        else:
            window.suppressed += 1

    def close(self) -> None:
        self._file.close()

    def _write(self, record: AuditRecord) -> None:
        fields = {name: _bounded(value) for name, value in msgspec.to_builtins(record).items()}
        time = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode({"time": time, **fields}) + b"\n"
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


def _bounded(value: object) -> object:
    return value[:MAX_TEXT] if isinstance(value, str) else value
