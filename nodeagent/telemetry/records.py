"""A line of the access log: which fields, in which order, as JSON or as text."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import msgspec

from nodeagent.bpf.mesh_sockets import Figures
from nodeagent.telemetry.kernel.sighting import NOTHING, Process, Sighting
from nodeagent.telemetry.labels import PROBE, PROBE_OF_KUBELET
from nodeagent.ztunnel.protocol import ConnectionEntry, Via

FIELDS: Final = (
    "src.addr",
    "src.workload",
    "src.namespace",
    "src.identity",
    "dst.addr",
    "dst.hbone_addr",
    "dst.service",
    "dst.workload",
    "dst.namespace",
    "dst.identity",
    "direction",
    "bytes_sent",
    "bytes_recv",
    "duration",
    "error",
    "policy",
    "probe",
    "flag",
)
PROCESS_FIELDS: Final = ("src.pid", "src.executable", "src.command")
TCP_FIELDS: Final = ("tcp.connect", "tcp.rtt", "tcp.retransmits")
DENIED_FLAG: Final = "UAEX"
MAX_VALUE_CHARS: Final = 2048
KEPT_VALUES: Final = 1024
"""How many are kept as text: the same names are in most lines."""
TAB: Final = "\t"
PRIORITY_WARNING: Final = 4
PRIORITY_INFO: Final = 6
"""Of syslog(3)."""
_PLAIN: Final = frozenset("0123456789abcdefABCDEF.:[]")


@dataclass(frozen=True, slots=True)
class Record:
    """A connection that ended; `at_s` in Unix seconds. Fields that are not known are left out."""

    at_s: float
    fields: Mapping[str, str | int]
    sighting: Sighting = NOTHING
    """What the kernel knew of it stands behind the fields: the same for many, and so put into words once."""

    @property
    def denied(self) -> bool:
        return self.fields.get("flag") == DENIED_FLAG

    @property
    def level(self) -> str:
        return "error" if "error" in self.fields or "flag" in self.fields else "info"


def record(entry: ConnectionEntry, log: Mapping[str, str], sighting: Sighting = NOTHING) -> Record:
    """What is logged of a connection; `log` is what the agent knew of its flow. The proxy's word counts where both have one."""
    known = log.get
    values = (
        entry.source,
        known("src.workload"),
        known("src.namespace"),
        entry.source_identity or known("src.identity"),
        entry.destination,
        entry.hbone_address,
        known("dst.service"),
        known("dst.workload"),
        known("dst.namespace"),
        entry.destination_identity or known("dst.identity"),
        entry.direction.value,
        entry.sent_bytes,
        entry.received_bytes,
        f"{entry.duration_s * 1000:.0f}ms",
        entry.error,
        entry.policy,
        PROBE_OF_KUBELET if entry.via is Via.PROBE else known(PROBE),
        entry.flag,
    )
    return Record(entry.opened_s + entry.duration_s, _fields(zip(FIELDS, values, strict=True)), sighting)


def _fields(pairs: Iterable[tuple[str, str | int | None]]) -> dict[str, str | int]:
    """Those that are known, none too long."""
    return {
        name: value if isinstance(value, int) or len(value) <= MAX_VALUE_CHARS else value[:MAX_VALUE_CHARS]
        for name, value in pairs
        if value is not None
    }


@lru_cache(KEPT_VALUES)
def _process_fields(process: Process) -> dict[str, str | int]:
    return _fields(zip(PROCESS_FIELDS, process, strict=True))


@lru_cache(KEPT_VALUES)
def _tcp_fields(figures: Figures) -> dict[str, str | int]:
    return _fields(zip(TCP_FIELDS, (_milliseconds(figures.connect_s), _milliseconds(figures.rtt_s), figures.retransmits), strict=True))


@lru_cache(KEPT_VALUES)
def _process_text(process: Process) -> str:
    return _pairs(_process_fields(process))


@lru_cache(KEPT_VALUES)
def _tcp_text(figures: Figures) -> str:
    return _pairs(_tcp_fields(figures))


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.3f}ms"


def as_json(line: Record) -> str:
    """One JSON object, without a line feed."""
    process, figures = line.sighting
    behind = (_process_fields(process) if process else {}) | (_tcp_fields(figures) if figures else {})
    return msgspec.json.encode({"time": _time(line.at_s), "level": line.level, **line.fields, **behind}).decode()


def as_text(line: Record) -> str:
    """Tab-separated head and `name=value` pairs; whatever could be mistaken for more than one value is in quotes, escaped."""
    return f"{_time(line.at_s)}\t{line.level}\taccess\t{_words(line, separator=TAB)}"


def as_entry(line: Record) -> dict[str, str | int]:
    """Fields of an entry of the journal, by the names that lines have."""
    process, figures = line.sighting
    behind = (_process_fields(process) if process else {}) | (_tcp_fields(figures) if figures else {})
    priority = PRIORITY_WARNING if line.level == "error" else PRIORITY_INFO
    return {"MESSAGE": _words(line, separator=": "), "PRIORITY": priority, "LOGGER": "access", **line.fields, **behind}


def _words(line: Record, *, separator: str) -> str:
    outcome = "failed" if line.level == "error" else "complete"
    process, figures = line.sighting
    behind = (_process_text(process) if process else "") + (_tcp_text(figures) if figures else "")
    return f"connection {outcome}{separator}{_pairs(line.fields)[1:]}{behind}"


def _pairs(fields: Mapping[str, str | int]) -> str:
    return "".join([f" {name}={_value(value)}" for name, value in fields.items()])


@lru_cache(KEPT_VALUES)
def _value(value: str | int) -> str:
    return str(value) if isinstance(value, int) or _PLAIN.issuperset(value) else json.dumps(value)


def _time(at_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "-"  # the proxy's clock said something that is no time; the rest of the line is still worth having
