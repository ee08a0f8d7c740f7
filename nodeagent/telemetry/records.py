"""A line of the access log: which fields, in which order, as JSON or as text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from nodeagent.telemetry.kernel.sighting import NOTHING, Sighting
from nodeagent.telemetry.labels import PROBE, PROBE_OF_KUBELET
from nodeagent.ztunnel.protocol import ConnectionEntry, Via

FIELDS: Final = (
    "src.addr",
    "src.workload",
    "src.namespace",
    "src.identity",
    "src.pid",
    "src.executable",
    "src.command",
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
    "tcp.connect",
    "tcp.rtt",
    "tcp.retransmits",
    "error",
    "policy",
    "probe",
    "flag",
)
DENIED_FLAG: Final = "UAEX"
MAX_VALUE_CHARS: Final = 2048
_PLAIN: Final = frozenset("0123456789abcdefABCDEF.:[]")


@dataclass(frozen=True, slots=True)
class Record:
    """A connection that ended; `at_s` in Unix seconds. Fields that are not known are left out."""

    at_s: float
    fields: Mapping[str, str | int]

    @property
    def denied(self) -> bool:
        return self.fields.get("flag") == DENIED_FLAG

    @property
    def level(self) -> str:
        return "error" if "error" in self.fields or "flag" in self.fields else "info"


def record(entry: ConnectionEntry, log: Mapping[str, str], sighting: Sighting = NOTHING) -> Record:
    """What is logged of a connection; `log` is what the agent knew of its flow. The proxy's word counts where both have one."""
    known: dict[str, str | int | None] = {
        **log,
        "src.addr": entry.source,
        "src.identity": entry.source_identity or log.get("src.identity"),
        "src.pid": sighting.pid,
        "src.executable": sighting.executable,
        "src.command": sighting.command,
        "dst.addr": entry.destination,
        "dst.hbone_addr": entry.hbone_address,
        "dst.identity": entry.destination_identity or log.get("dst.identity"),
        "direction": str(entry.direction),
        "bytes_sent": entry.sent_bytes,
        "bytes_recv": entry.received_bytes,
        "duration": f"{entry.duration_s * 1000:.0f}ms",
        "tcp.connect": _milliseconds(sighting.connect_s),
        "tcp.rtt": _milliseconds(sighting.rtt_s),
        "tcp.retransmits": sighting.retransmits,
        "error": entry.error,
        "policy": entry.policy,
        PROBE: PROBE_OF_KUBELET if entry.via is Via.PROBE else log.get(PROBE),
        "flag": entry.flag,
    }
    fields = {name: _bounded(value) for name in FIELDS if (value := known.get(name)) is not None}
    return Record(entry.opened_s + entry.duration_s, fields)


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.3f}ms"


def as_json(line: Record) -> str:
    """One JSON object, without a line feed."""
    return msgspec.json.encode({"time": _time(line.at_s), "level": line.level, **line.fields}).decode()


def as_text(line: Record) -> str:
    """Tab-separated head and `name=value` pairs; whatever could be mistaken for more than one value is in quotes, escaped."""
    outcome = "failed" if line.level == "error" else "complete"
    pairs = " ".join(f"{name}={_value(value)}" for name, value in line.fields.items())
    return f"{_time(line.at_s)}\t{line.level}\taccess\tconnection {outcome}\t{pairs}"


def _bounded(value: str | int) -> str | int:
    return value[:MAX_VALUE_CHARS] if isinstance(value, str) else value


def _value(value: str | int) -> str:
    return str(value) if isinstance(value, int) or _PLAIN.issuperset(value) else json.dumps(value)


def _time(at_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "-"  # the proxy's clock said something that is no time; the rest of the line is still worth having
