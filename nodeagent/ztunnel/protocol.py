"""The messages of the decision protocol between agent and proxy; docs/architecture.md says how they are used.

A message is one JSON object behind a 32-bit big-endian length; `type` says which. File descriptors travel as SCM_RIGHTS with
the first byte of their message. The Rust side of these types is `nodeagent/ztunnel/proxy/src/protocol.rs`.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 16 << 20

Attributes = msgspec.Raw
"""What the agent wants back with counters and log entries of a flow: a JSON object that the proxy never looks into.

Encoded where it is made: most of it is the same in thousands of answers.
"""
GivenBack = dict[str, Any]
"""The same, as it comes back."""


class ListenerKind(StrEnum):
    OUTBOUND = "outbound"
    """Connections of the workload's applications.

    The original destination is the socket's own address; where that is a loopback address, the kernel is asked (SO_ORIGINAL_DST).
    """
    INBOUND = "inbound"
    """Plaintext connections to the workload, transparent; the original destination is the socket's own address."""
    HBONE = "hbone"
    PROBE = "probe"
    """Like `inbound`, of the kubelet's own connections and no others: the kernel knows them, so no verdict is asked for."""


class Via(StrEnum):
    HBONE = "hbone"
    PLAINTEXT = "plaintext"
    PROBE = "probe"
    """In plaintext by the listener for probes. Never asked about; such a connection is in no series."""


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


# ---- proxy to agent


class HeldWorkload(Struct, frozen=True):
    uid: str
    generation: int


class Hello(Struct, frozen=True, tag="hello"):
    """First message.

    `instance` is random per process. One `held` follows for each of `workloads`, then every question that the proxy holds.
    `leaving`: it was told to shut down, and drains; what serves is another.
    """

    protocol: int
    build: str
    pid: int
    instance: str
    started_s: float
    workloads: tuple[HeldWorkload, ...] = ()
    leaving: bool = False


class Held(Struct, frozen=True, tag="held"):
    """The sockets of a workload that the proxy serves, given back to an agent that restarted.

    Descriptors: network namespace, then the listeners.
    """

    uid: str
    generation: int
    listeners: tuple[ListenerKind, ...]


class AskRoute(Struct, frozen=True, tag="ask_route"):
    """Where does a new connection of `workload` to `destination` (`ip:port`, `[ip]:port`) go?

    `id` is the proxy's, unique among what it holds.
    """

    id: int
    workload: str
    destination: str


class AskVerdict(Struct, frozen=True, tag="ask_verdict"):
    """May `peer` (a SPIFFE id, None = unauthenticated) connect from `source` (an address) to `destination` (`ip:port`) of `workload`?"""

    id: int
    workload: str
    destination: str
    via: Via
    source: str
    peer: str | None = None


class Release(Struct, frozen=True, tag="release"):
    """The proxy no longer holds these answers."""

    ids: tuple[int, ...]


class CounterRow(Struct, frozen=True, omit_defaults=True):
    """What was added to a flow series since the last report. `attributes` comes with the first row of a series in a session."""

    series: int
    attributes: GivenBack | None = None
    opened: int = 0
    closed: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    failed: dict[str, int] = {}
    """Failed connections by response flag (UF, UH, NR, UAEX, DT, ...)."""


class Counters(Struct, frozen=True, tag="counters"):
    """Sent every second while there is anything to say, and at once in answer to `report`.

    `lost_log_entries` counts entries shed since the last.
    """

    rows: tuple[CounterRow, ...]
    request: int | None = None
    lost_log_entries: int = 0


class ConnectionEntry(Struct, frozen=True, omit_defaults=True):
    """An open connection, or in `closed` one that has ended. Bytes as the application sees them: sent by, received by the client."""

    id: int
    workload: str
    direction: Direction
    series: int | None
    source: str
    destination: str
    opened_s: float
    via: Via
    hbone_address: str | None = None
    source_identity: str | None = None
    destination_identity: str | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    duration_s: float = 0.0
    flag: str | None = None
    error: str | None = None
    policy: str | None = None
    socket: int | None = None
    """The kernel's number (SO_COOKIE) for the socket towards the other workload: the tunnel's, or one of its own."""


class Connections(Struct, frozen=True, tag="connections"):
    """Answer to `list_connections`, in parts; `last` ends it."""

    request: int
    open: tuple[ConnectionEntry, ...]
    last: bool


class Closed(Struct, frozen=True, tag="closed"):
    """Connections that ended, in batches: the access log. The `counters` row that defines a series always precedes its use here."""

    entries: tuple[ConnectionEntry, ...]


class ProxyStatus(Struct, frozen=True, tag="proxy_status"):
    """Answer to `report`, after its `counters`: gauges of the proxy."""

    request: int
    connections: int
    tunnels_in: int
    tunnels_out: int
    held_routes: int
    held_verdicts: int
    waiting_questions: int
    resident_bytes: int
    shed: dict[str, int] = {}
    """Totals of connections turned away since the start, by reason."""


# ---- agent to proxy


class Settings(Struct, frozen=True):
    """Deadlines in seconds and limits of the proxy."""

    decision_deadline_s: float = 5.0
    connect_deadline_s: float = 5.0
    connect_attempt_s: float = 1.2
    """How long an endpoint may stay silent before the next one is tried: long enough for a lost SYN to be sent again."""
    handshake_deadline_s: float = 5.0
    preface_deadline_s: float = 5.0
    answer_deadline_s: float = 10.0
    """From CONNECT to its status."""
    drain_s: float = 30.0
    idle_tunnel_s: float = 90.0
    half_closed_s: float = 3600.0
    """How long a half-closed connection may stay without a byte."""
    ping_interval_s: float = 10.0
    ping_deadline_s: float = 20.0
    connect_tries: int = 3
    eject_after_failures: int = 3
    eject_s: float = 10.0
    max_connections: int = 60000
    """One workload has at most as many as are left for all others: half of these, if they need few."""
    max_tunnels: int = 20000
    max_tunnels_per_source: int = 4096
    """Inbound ones from one address; outbound ones of one workload."""
    max_streams_per_tunnel: int = 100
    max_pool_tunnels_per_pair: int = 4
    max_held_answers: int = 65536
    """One workload has a fourth of these at most."""
    max_buffered_bytes: int = 1 << 30
    """Those that wait for one workload's applications are at most as many as are left."""


class Welcome(Struct, frozen=True, tag="welcome"):
    """Answer to `hello`; what follows is the whole of the workloads, identities and trust, then `synced`."""

    protocol: int
    settings: Settings


class Synced(Struct, frozen=True, tag="synced"):
    """The state that the agent had at `hello` has been sent: workloads and identities that were not named since are to be drained."""


class SetWorkload(Struct, frozen=True, tag="workload"):
    """A workload to serve. Descriptors: network namespace, then `listeners`; none if the proxy holds this uid and generation already."""

    uid: str
    generation: int
    identity: str
    addresses: tuple[str, ...]
    listeners: tuple[ListenerKind, ...]
    inbound_attributes: Attributes
    outbound_attributes: Attributes
    """For flows that fail before a decision."""
    baggage: str = ""
    """The value of the `baggage` header of its tunnels; without one if empty."""
    shares_network: bool = False
    """The network is others' as well: its applications see the host as their client."""


class RemoveWorkload(Struct, frozen=True, tag="remove_workload"):
    """Stop accepting for this workload, GOAWAY, let connections finish for `drain_s` seconds, then close."""

    uid: str
    drain_s: float


class SetIdentity(Struct, frozen=True, tag="identity"):
    """The certificate and key of an identity (PEM). Replaces an earlier one for new handshakes."""

    identity: str
    chain: str
    key: str

    def __repr__(self) -> str:
        return f"SetIdentity({self.identity}, key withheld)"


class ForgetIdentity(Struct, frozen=True, tag="forget_identity"):
    identity: str


class Revocation(Struct, frozen=True):
    """Certificates of `identity` that begin (notBefore) before `issued_before_s` (Unix seconds) are refused."""

    identity: str
    issued_before_s: int


class SetTrust(Struct, frozen=True, tag="trust"):
    """The roots of each trust domain (PEM) and what is revoked: the whole, each time.

    Open tunnels that it no longer carries are closed within 1 s.
    """

    roots: dict[str, str]
    revoked: tuple[Revocation, ...] = ()


# The parts of answers are held by the ten thousand and can't form cycles: the collector need not look at them (gc=False).


class Tunnel(Struct, frozen=True, gc=False):
    """How to reach an endpoint by HBONE: as whom, asking for which authority, accepting which identities."""

    identity: str
    authority: str
    expect: tuple[str, ...]


class Endpoint(Struct, frozen=True, gc=False, omit_defaults=True):
    """Where a connection may go.

    `address` is dialled; without `tunnel` in plaintext. Lower tiers first, within one by least load over weight.
    """

    uid: str
    address: str
    attributes: Attributes
    tunnel: Tunnel | None = None
    tier: int = 0
    weight: int = 1


class Pass(Struct, frozen=True, gc=False, tag="pass", tag_field="do"):
    """Not the mesh's: connect to the original destination in plaintext."""

    attributes: Attributes


class Refuse(Struct, frozen=True, gc=False, tag="refuse", tag_field="do"):
    """Close the connection; `flag` is the response flag (NR no route, UH no healthy endpoint, UAEX not authorised)."""

    flag: str
    reason: str
    attributes: Attributes


class Forward(Struct, frozen=True, gc=False, tag="forward", tag_field="do"):
    """Connect to one of `endpoints` (never empty)."""

    endpoints: tuple[Endpoint, ...]


Route = Pass | Refuse | Forward


class AnswerRoute(Struct, frozen=True, gc=False, tag="route"):
    id: int
    route: Route


class Holds(StrEnum):
    """How widely a verdict holds beyond the connection that it was asked for."""

    ANY_SOURCE = "any_source"
    THIS_SOURCE = "this_source"


class AnswerVerdict(Struct, frozen=True, gc=False, tag="verdict", omit_defaults=True):
    """`policy` is the `namespace/name` that decided, None if none did. A verdict that turns to deny closes what stands on it."""

    id: int
    allow: bool
    holds: Holds
    reason: str
    attributes: Attributes
    policy: str | None = None


class Report(Struct, frozen=True, tag="report"):
    """Asks for `counters` and `proxy_status` now."""

    request: int


class ListConnections(Struct, frozen=True, tag="list_connections"):
    request: int


class Shutdown(Struct, frozen=True, tag="shutdown"):
    """Drain every workload as in `remove_workload`, then exit."""

    drain_s: float


FromProxy = Hello | Held | AskRoute | AskVerdict | Release | Counters | Connections | Closed | ProxyStatus
ToProxy = (
    Welcome
    | Synced
    | SetWorkload
    | RemoveWorkload
    | SetIdentity
    | ForgetIdentity
    | SetTrust
    | AnswerRoute
    | AnswerVerdict
    | Report
    | ListConnections
    | Shutdown
)

_from_proxy: msgspec.json.Decoder[FromProxy] = msgspec.json.Decoder(FromProxy)
_to_proxy: msgspec.json.Decoder[ToProxy] = msgspec.json.Decoder(ToProxy)
_encoder = msgspec.json.Encoder()


class ProtocolError(ValueError):
    """A message of the other side that is not of the protocol."""


def encode(message: FromProxy | ToProxy) -> bytes:
    """The JSON object, without its length."""
    return _encoder.encode(message)


def decode_from_proxy(body: bytes) -> FromProxy:
    """Parses a message of the proxy; raises ProtocolError."""
    try:
        return _from_proxy.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"from the proxy: {error}") from error


def decode_to_proxy(body: bytes) -> ToProxy:
    """Parses a message of the agent; raises ProtocolError."""
    try:
        return _to_proxy.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"from the agent: {error}") from error
