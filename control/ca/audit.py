"""The audit log: one JSON line for each certificate granted, and one for each refused, in two private files of bounded size.

Grants have a file of their own, so that no flood of refusals can push them out of it. Of the same refusal to the same caller only a
few lines a second are written, and of those to callers without a name only so many in all; the next one says how many were left out.
A certificate that can't be recorded is not handed out.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from control.ca.bounded_log import BoundedLog

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_TEXT = 400
REFUSALS_PER_WINDOW = 5
NAMELESS_PER_WINDOW = 50
WINDOW_S = 1.0
MAX_WINDOWS = 4096
SITE_BITS = 64
"""What one holder of IPv6 addresses has at least."""


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

    def admit(self, now_s: float, limit: int) -> int | None:
        """How many were left out before this one, if it may be written; None if it is left out, too."""
        if not 0 <= now_s - self.opened_s < WINDOW_S:
            before, self.opened_s, self.written, self.suppressed = self.suppressed, now_s, 1, 0
            return before
        if self.written >= limit:
            self.suppressed += 1
            return None
        self.written += 1
        return 0


class AuditLog:
    """Grants in `path` (audit.log), refusals in audit-refused.log beside it."""

    def __init__(self, path: Path, clock: Callable[[], float], max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._clock = clock
        self._grants = BoundedLog(path, max_file_bytes)
        self._refusals = BoundedLog(path.with_stem(f"{path.stem}-refused"), max_file_bytes)
        self._windows: dict[tuple[str, str], _Window] = {}
        self._nameless = _Window(opened_s=clock())

    def granted(self, record: AuditRecord) -> None:
        """Raises OSError if it can't be written."""
        self._grants.write(self._line(record))

    def refused(self, record: AuditRecord) -> None:
        """Raises OSError if it can't be written."""
        now_s = self._clock()
        key = (record.caller or _site(record.peer), record.check)
        if key not in self._windows and len(self._windows) >= MAX_WINDOWS:
            self._windows = {}
        unsaid = self._windows.setdefault(key, _Window(opened_s=now_s)).admit(now_s, REFUSALS_PER_WINDOW)
        if unsaid is None:
            return
        if not record.caller:
            others = self._nameless.admit(now_s, NAMELESS_PER_WINDOW)
            if others is None:
                self._nameless.suppressed += unsaid
                return
            unsaid += others
        self._refusals.write(self._line(msgspec.structs.replace(record, suppressed=unsaid)))

    def close(self) -> None:
        self._grants.close()
        self._refusals.close()

    def _line(self, record: AuditRecord) -> bytes:
        fields = {name: _bounded(value) for name, value in msgspec.to_builtins(record).items()}
        time = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        return msgspec.json.encode({"time": time, **fields})


def _site(peer: str) -> str:
    """Of a peer as gRPC names it (`ipv4:10.0.0.1:4000`, `ipv6:[2001:db8::1]:4000`) what stays the same for one caller."""
    scheme, _, place = peer.partition(":")
    host = unquote(place).rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host)
    except ValueError:
        return f"{scheme}:{host}"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((int(address), SITE_BITS), strict=False))
    return str(address)


def _bounded(value: object) -> object:
    return value[:MAX_TEXT] if isinstance(value, str) else value
