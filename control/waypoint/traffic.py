"""What the lines of Envoy's reports say, without I/O: each request, and each connection from one line to the next."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct

from control.envoy.reports import ENDED, FIELD, MISSING, PERIOD_S, PLACE_PARTS, SERVICE_PARTS, WORKLOAD_PARTS, Kind, joined, split

_MICROSECONDS_PER_MILLISECOND: Final = 1000
_LAST_GRPC_STATUS: Final = 16
_REQUEST_FIELDS: Final = 16
_FIGURES: Final = 6
"""Of a request, at the end of its line."""
_CONNECTION_FIELDS: Final = 14
MAX_CONNECTIONS: Final = 100_000
FORGET_S: Final = 24 * PERIOD_S
"""Lines of a connection that lasts come every `PERIOD_S`: of one that was so long not heard of, the end was lost."""
NO_FLAGS: Final = MISSING
_DENIED: Final = "UAEX"
_BY_POLICY: Final = "rbac_access_denied"


class ReportError(ValueError):
    """A line that is none of Envoy's reports."""


class Protocol(StrEnum):
    HTTP = "http"
    GRPC = "grpc"
    TCP = "tcp"


class Way(Struct, frozen=True):
    """Between whom, as Envoy says it, and by what."""

    peer: str
    dialled: str
    called: str
    workload: str
    identity: str
    protocol: Protocol
    source: str = ""
    """What the mesh calls the client; reports don't say it."""
    flags: str = NO_FLAGS
    status: int = 0
    """Of the answer; 0 without one."""
    grpc_status: str = ""
    rules: str = ""
    """Of which there are no metrics, or labels."""
    own: str = ""
    """Who this proxy is, where it is the client of what is called."""


class Refusal(Struct, frozen=True):
    """A tunnel that was not let in: from where, by whose certificate (all names that it has), where to, and why."""

    status: int
    client: str | None = None
    peers: str | None = None
    authority: str | None = None
    why: str | None = None


class Request(Struct, frozen=True):
    """One that has ended. `client` and `server` are addresses: from where, and which was dialled. `head`: see `cut`."""

    head: str
    way: Way
    client: str
    server: str
    measures: tuple[float, ...]
    """See `measured`."""


class Progress(Struct, frozen=True):
    """What a connection did since the last line. `failed`: it ended before it reached anybody."""

    way: Way
    client: str
    server: str
    opened: bool = False
    closed: bool = False
    failed: bool = False
    received_bytes: int = 0
    """From the client."""
    sent_bytes: int = 0

    @property
    def measures(self) -> tuple[float, ...]:
        """What it adds to metrics."""
        return self.opened, self.closed, self.failed, self.received_bytes, self.sent_bytes


class _Seen(Struct):
    """What was reported of a connection so far, and when."""

    at_s: float
    opened: bool = False
    received_bytes: int = 0
    sent_bytes: int = 0


class Traffic:
    """Reads one Envoy's reports. Connections that last are kept until they end, or are not heard of any more.

    Of those that are too many nothing is told before their end: then all is. Lines that are none of Envoy's are counted, and nothing else.
    """

    def __init__(self, max_connections: int = MAX_CONNECTIONS) -> None:
        self._max_connections = max_connections
        self._open: OrderedDict[str, _Seen] = OrderedDict()
        """The one that was longest not heard of comes first."""
        self.unread = 0
        """How many lines were none."""

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def read(self, lines: Iterable[str], now_s: float) -> Iterator[Request | Progress | Refusal]:
        """What some lines say."""
        self._forget(now_s)
        for line in lines:
            try:
                found = self._line(line, now_s)
            except (ValueError, msgspec.MsgspecError):
                self.unread += 1
                continue
            if found is not None:
                yield found

    def _line(self, line: str, now_s: float) -> Request | Progress | Refusal | None:
        fields = line.split(FIELD)
        if fields[0] == Kind.REQUEST:
            return _request(line, fields)
        if fields[0] == Kind.CONNECTION:
            return self._connection(fields, now_s)
        return msgspec.json.decode(line, type=Refusal)

    def _connection(self, fields: list[str], now_s: float) -> Progress | None:
        if len(fields) != _CONNECTION_FIELDS:
            raise ReportError
        *_, stream, kind, reached, why, received_text, sent_text = fields
        received, sent, opened = int(received_text), int(sent_text), reached != MISSING
        # Envoy has no flag for a connection that a policy ended: it gets that of the node proxy's, and of requests that are denied.
        flags = _DENIED if why.startswith(_BY_POLICY) else fields[7]
        way = _way(fields[1], fields[2], fields[3], fields[4], flags)
        # A connection that reached nobody yet is none that was opened.
        if kind != ENDED:
            seen = self._open.get(stream)
            if seen is None and len(self._open) >= self._max_connections:
                return None
            self._open[stream] = _Seen(now_s, opened, received, sent)
            self._open.move_to_end(stream)
        else:
            seen = self._open.pop(stream, None)
            opened = opened or (seen is not None and seen.opened)
        before = seen or _Seen(0)
        return Progress(
            way,
            client=fields[5],
            server=fields[6],
            opened=opened and not before.opened,
            closed=kind == ENDED and opened,
            failed=kind == ENDED and not opened,
            received_bytes=max(0, received - before.received_bytes),
            sent_bytes=max(0, sent - before.sent_bytes),
        )

    def _forget(self, now_s: float) -> None:
        while self._open and next(iter(self._open.values())).at_s < now_s - FORGET_S:
            self._open.popitem(last=False)


def cut(line: str) -> tuple[str, list[str]]:
    """What a request's line says besides its figures, the same for all requests of a kind between two, and these figures."""
    head, *figures = line.rsplit(FIELD, _FIGURES)
    return head, figures


def measured(figures: list[str]) -> tuple[float, ...]:
    """What a request adds to metrics: itself, milliseconds that it took, its bytes, the answer's; raises ValueError for no figures."""
    exactly_us, about_ms, head, body, answer_head, answer_body = figures
    took_ms = int(exactly_us) / _MICROSECONDS_PER_MILLISECOND if exactly_us != MISSING else _number(about_ms)
    return 1, took_ms, _number(head) + _number(body), _number(answer_head) + _number(answer_body)


def _request(line: str, fields: list[str]) -> Request:
    if len(fields) != _REQUEST_FIELDS:
        raise ReportError
    head, figures = cut(line)
    way = _way(fields[1], fields[2], fields[3], fields[4], fields[7], fields[8], fields[9])
    return Request(head, way, fields[5], fields[6], measured(figures))


def _number(text: str) -> int:
    return int(text) if text != MISSING else 0


@lru_cache(8192)
def _way(peer: str, place: str, called: str, workload: str, flags: str, status: str = "", grpc_status: str = "") -> Way:
    """Of the same few ways are most requests. `status` empty: of a connection."""
    *dialled, expected, own, rules = split(place, PLACE_PARTS)
    *known, identity = split(workload, WORKLOAD_PARTS)
    by_grpc = grpc_status not in {"", MISSING}
    return Way(
        peer=peer if peer != MISSING else "",
        dialled=_stated(dialled),
        called=_stated(split(called, SERVICE_PARTS)),
        workload=_stated(known),
        identity=identity or expected,
        protocol=Protocol.GRPC if by_grpc else Protocol.HTTP if status else Protocol.TCP,
        flags=flags,
        status=_number(status) if status else 0,
        grpc_status=_known_status(grpc_status) if by_grpc else "",
        rules=rules,
        own=own,
    )


def _stated(parts: Iterable[str]) -> str:
    """Empty where all parts are."""
    found = tuple(parts)
    return joined(*found) if any(found) else ""


def _known_status(text: str) -> str:
    """What a server answers may be any number; those that mean something are few."""
    return text if text.isdecimal() and int(text) <= _LAST_GRPC_STATUS else ""
