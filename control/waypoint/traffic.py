"""What Envoy's reports say, without I/O: each request, and each connection from one report to the next."""

from collections import OrderedDict
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from control.envoy.messages import Message, message_class
from control.envoy.reports import PERIOD_S, Tag

_REPORTS: Final = "envoy.service.accesslog.v3.StreamAccessLogsMessage"
_MILLISECONDS_PER_SECOND: Final = 1000
_NANOSECONDS_PER_MILLISECOND: Final = 1_000_000
_LAST_GRPC_STATUS: Final = 16
MAX_CONNECTIONS: Final = 100_000
FORGET_S: Final = 24 * PERIOD_S
"""Reports of a connection that lasts come every `PERIOD_S`: of one that was so long not heard of, the end was lost."""
NO_FLAGS: Final = "-"
_CONNECT: Final = 6
"""In envoy.config.core.v3.RequestMethod."""


class Protocol(StrEnum):
    HTTP = "http"
    GRPC = "grpc"
    TCP = "tcp"


class Way(Struct, frozen=True):
    """Between whom, as the tags say it, and by what."""

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
    client: str
    peers: tuple[str, ...]
    authority: str
    why: str


class Request(Struct, frozen=True):
    """One that has ended. `client` and `server` are addresses: from where, and which was dialled."""

    way: Way
    client: str
    server: str
    duration_ms: float
    request_bytes: int
    response_bytes: int


class Progress(Struct, frozen=True):
    """What a connection did since the last report. `failed`: it ended before it reached anybody."""

    way: Way
    client: str
    server: str
    opened: bool = False
    closed: bool = False
    failed: bool = False
    received_bytes: int = 0
    """From the client."""
    sent_bytes: int = 0


class _Seen(Struct):
    """What was reported of a connection so far, and when."""

    at_s: float
    opened: bool = False
    received_bytes: int = 0
    sent_bytes: int = 0


class Traffic:
    """Reads one Envoy's reports. Connections that last are kept until they end, or are not heard of any more.

    Of those that are too many nothing is told before their end: then all is.
    """

    def __init__(self, max_connections: int = MAX_CONNECTIONS) -> None:
        self._max_connections = max_connections
        self._open: OrderedDict[str, _Seen] = OrderedDict()
        """The one that was longest not heard of comes first."""

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def read(self, body: bytes, now_s: float) -> Iterator[Request | Progress | Refusal]:
        """What a batch of reports says; raises DecodeError for what is none."""
        message = message_class(_REPORTS).FromString(body)
        self._forget(now_s)
        yield from (_refusal(entry) if _is_tunnel(entry) else _request(entry) for entry in message.http_logs.log_entry)
        for entry in message.tcp_logs.log_entry:
            if entry.common_properties.intermediate_log_entry:
                yield from self._lasting(entry, now_s)
            else:
                yield self._ended(entry)

    def _lasting(self, entry: Message, now_s: float) -> Iterator[Progress]:
        common, carried = entry.common_properties, entry.connection_properties
        seen = self._open.get(common.stream_id)
        if seen is None and len(self._open) >= self._max_connections:
            return
        # A connection that reached nobody yet is none that was opened.
        opened = common.HasField("upstream_remote_address")
        self._open[common.stream_id] = _Seen(now_s, opened, carried.received_bytes, carried.sent_bytes)
        self._open.move_to_end(common.stream_id)
        yield _progress(entry, seen, opened=opened)

    def _ended(self, entry: Message) -> Progress:
        seen = self._open.pop(entry.common_properties.stream_id, None)
        opened = (seen is not None and seen.opened) or entry.common_properties.HasField("upstream_remote_address")
        return msgspec.structs.replace(_progress(entry, seen, opened=opened), closed=opened, failed=not opened)

    def _forget(self, now_s: float) -> None:
        while self._open and next(iter(self._open.values())).at_s < now_s - FORGET_S:
            self._open.popitem(last=False)


def _is_tunnel(entry: Message) -> bool:
    """Requests in tunnels come by no TLS of their own, and gateways, which end TLS, end no tunnels."""
    common = entry.common_properties
    return entry.request.request_method == _CONNECT and common.HasField("tls_properties") and Tag.OWN not in common.custom_tags


def _refusal(entry: Message) -> Refusal:
    common = entry.common_properties
    names = common.tls_properties.peer_certificate_properties.subject_alt_name
    return Refusal(
        status=entry.response.response_code.value,
        client=common.downstream_remote_address.socket_address.address,
        peers=tuple(one.uri for one in names if one.uri),
        authority=entry.request.authority,
        why=entry.response.response_code_details,
    )


def _progress(entry: Message, seen: _Seen | None, *, opened: bool) -> Progress:
    carried, seen = entry.connection_properties, seen or _Seen(0)
    return Progress(
        _way(entry.common_properties, Protocol.TCP),
        *_addresses(entry.common_properties),
        opened=opened and not seen.opened,
        received_bytes=max(0, carried.received_bytes - seen.received_bytes),
        sent_bytes=max(0, carried.sent_bytes - seen.sent_bytes),
    )


def _request(entry: Message) -> Request:
    common, request, response = entry.common_properties, entry.request, entry.response
    lasted = common.duration
    return Request(
        _way(common, Protocol.HTTP, response.response_code.value),
        *_addresses(common),
        duration_ms=lasted.seconds * _MILLISECONDS_PER_SECOND + lasted.nanos / _NANOSECONDS_PER_MILLISECOND,
        request_bytes=request.request_headers_bytes + request.request_body_bytes,
        response_bytes=response.response_headers_bytes + response.response_body_bytes,
    )


def _way(common: Message, protocol: Protocol, status: int = 0) -> Way:
    tags = common.custom_tags
    grpc_status = tags.get(Tag.GRPC, "") if protocol is Protocol.HTTP else ""
    return Way(
        peer=tags.get(Tag.PEER, ""),
        dialled=tags.get(Tag.DIALLED, ""),
        called=tags.get(Tag.CALLED, ""),
        workload=tags.get(Tag.WORKLOAD, ""),
        identity=tags.get(Tag.IDENTITY, "") or tags.get(Tag.EXPECTED, ""),
        protocol=Protocol.GRPC if grpc_status else protocol,
        flags=tags.get(Tag.FLAGS, NO_FLAGS),
        status=status,
        grpc_status=_known_status(grpc_status),
        rules=tags.get(Tag.RULES, ""),
        own=tags.get(Tag.OWN, ""),
    )


def _addresses(common: Message) -> tuple[str, str]:
    return common.downstream_remote_address.socket_address.address, common.downstream_local_address.socket_address.address


def _known_status(text: str) -> str:
    """What a server answers may be any number; those that mean something are few."""
    return text if text.isdecimal() and int(text) <= _LAST_GRPC_STATUS else ""
