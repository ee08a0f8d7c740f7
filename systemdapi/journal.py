"""systemd's journal by its native protocol: entries with fields, which `journalctl` can be asked for one by one."""

import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

SOCKET: Final = Path("/run/systemd/journal/socket")
SEND_DEADLINE_S: Final = 1.0
"""A journal that is behind holds its clients up; what it does not take by then goes elsewhere, or is tried again."""
MAX_VALUE_BYTES: Final = 32 << 10
"""A datagram has room for about 200 KB."""
_NOT_IN_NAMES: Final = re.compile("[^A-Z0-9_]")
_MAX_NAME: Final = 64
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Of syslog(3), for levels from these on."""
PLAIN: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""A line where there is no journal."""


def entry(fields: Mapping[str, str | int]) -> bytes:
    """An entry as the journal's socket takes it: `NAME=value`, or with its length, if the value has more than one line."""
    parts = []
    for given, value in fields.items():
        name, data = field_name(given).encode(), str(value).encode("utf-8", "backslashreplace")[:MAX_VALUE_BYTES]
        parts.append(name + (b"\n" + len(data).to_bytes(8, "little") if b"\n" in data else b"=") + data + b"\n")
    return b"".join(parts)


def field_name(text: str) -> str:
    """As the journal allows it: `src.workload` is SRC_WORKLOAD. Names that begin with an underscore are the journal's own."""
    return _NOT_IN_NAMES.sub("_", text.upper()).lstrip("_0123456789")[:_MAX_NAME] or "FIELD"


class Journal:
    """The socket. Safe to use from several threads."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(SEND_DEADLINE_S)

    def send(self, fields: Mapping[str, str | int]) -> None:
        """Raises OSError. The address is looked up each time: a journal that was started again has another socket there."""
        self._socket.sendto(entry(fields), self._path)

    def close(self) -> None:
        """Safe to repeat."""
        self._socket.close()


class JournalHandler(logging.Handler):
    """Log records as entries. `program` is their SYSLOG_IDENTIFIER; what the journal does not take goes to `fallback`."""

    def __init__(self, journal: Journal, program: str, fallback: TextIO) -> None:
        super().__init__()
        self._journal = journal
        self._program = program
        self._fallback = fallback

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises."""
        message = self.format(record)
        try:
            self._journal.send(
                {
                    "MESSAGE": message,
                    "PRIORITY": priority(record.levelno),
                    "SYSLOG_IDENTIFIER": self._program,
                    "LOGGER": record.name,
                    "CODE_FILE": record.pathname,
                    "CODE_LINE": record.lineno,
                    "CODE_FUNC": record.funcName or "",
                    "THREAD_NAME": record.threadName or "",
                }
            )
        except OSError:
            with suppress(OSError):
                self._fallback.write(f"{message}\n")

    def close(self) -> None:
        """Closes the socket, too."""
        self._journal.close()
        super().close()


def priority(level: int) -> int:
    """Of a level of logging."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def is_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written there goes to the journal, as systemd.exec(5) has services find out: by JOURNAL_STREAM."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is closed, or no file
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def log_to(stream: TextIO, *, program: str, level: str) -> None:
    """Sets logging up: as entries if `stream` is the journal's, else as lines of it."""
    if is_journal(stream):
        logging.basicConfig(level=level, format="%(message)s", handlers=[JournalHandler(Journal(), program, stream)])
    else:
        logging.basicConfig(level=level, format=PLAIN, stream=stream)


def of_standard_output() -> Journal | None:
    """None if that goes elsewhere."""
    return Journal() if is_journal(sys.stdout) else None
