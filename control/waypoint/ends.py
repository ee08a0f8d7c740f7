"""How often this host's Envoy has ended by itself of late: kept in a file, since each end is the end of this process, too."""

import signal
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from control.ca.private_files import write_private

ENDS_FILE: Final = "ends.json"
LATELY_S: Final = 3600.0
_KEPT: Final = 100


class _End(Struct, frozen=True):
    at_s: float


def words(code: int) -> str:
    """How a process ended: by its exit status, or the signal that it is the negative of."""
    if code >= 0:
        return f"with status {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def note_end(directory: Path, now_s: float) -> int:
    """One more; returns how many there were within the last hour, this one among them."""
    file = directory / ENDS_FILE
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[_End])
    except (FileNotFoundError, UnicodeDecodeError, msgspec.DecodeError):
        found = []
    # A clock that was set back leaves none of the future.
    lately = [one for one in found if now_s - LATELY_S < one.at_s <= now_s]
    lately.append(_End(now_s))
    write_private(file, msgspec.json.encode(lately[-_KEPT:]))
    return len(lately)
