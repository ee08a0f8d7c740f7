"""DNS messages on the wire, as far as a forwarder must read them (RFC 1035, 2308, 6891): strict, bounded, and without I/O.

Questions are read whole. Of what resolvers answer only the places of things are read: it is passed on as it came, with types that
nobody here knows. No compression pointer is ever followed, so that none can lead in a circle: a name ends where its pointer stands.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from msgspec import Struct

HEADER_BYTES: Final = 12
MIN_UDP_BYTES: Final = 512
"""What every client takes."""
MAX_UDP_BYTES: Final = 4096
MAX_MESSAGE_BYTES: Final = 65535
UPSTREAM_UDP_BYTES: Final = 1232
"""What is asked of resolvers: never in fragments (DNS flag day 2020)."""
_MAX_NAME_BYTES: Final = 255
_MAX_EXTRAS: Final = 8
_MAX_RECORDS: Final = 4096
_POINTER: Final = 0xC0
_TO_QUESTION: Final = b"\xc0\x0c"
_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
_TWO: Final = struct.Struct("!HH")
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_*")


class Type(IntEnum):
    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    AAAA = 28
    SRV = 33
    OPT = 41
    SVCB = 64
    HTTPS = 65


class Code(IntEnum):
    NO_ERROR = 0
    MALFORMED = 1
    FAILED = 2
    NO_NAME = 3
    NOT_IMPLEMENTED = 4
    REFUSED = 5
    BAD_VERSION = 16


class Flag(IntFlag):
    RESPONSE = 0x8000
    AUTHORITATIVE = 0x0400
    TRUNCATED = 0x0200
    RECURSION_DESIRED = 0x0100
    RECURSION_AVAILABLE = 0x0080
    AUTHENTIC = 0x0020
    UNCHECKED = 0x0010


_OPCODE: Final = 0x7800
_KEPT: Final = Flag.RECURSION_DESIRED | Flag.UNCHECKED
INTERNET: Final = 1


class MalformedError(ValueError):
    """Bytes that are no message, or none that can be gone on with."""


class Extension(Struct, frozen=True):
    """EDNS of a question."""

    version: int
    udp_bytes: int
    dnssec: bool


class Query(Struct, frozen=True):
    """A question. `question` is its section as it came; `name` in lower case without the last dot, empty if it has other than letters."""

    id: int
    flags: int
    question: bytes
    name: str
    type: int
    klass: int
    extension: Extension | None = None

    @property
    def udp_bytes(self) -> int:
        """What the client takes by UDP."""
        asked = self.extension.udp_bytes if self.extension else MIN_UDP_BYTES
        return min(max(asked, MIN_UDP_BYTES), MAX_UDP_BYTES)


class Record(Struct, frozen=True):
    """`name` None: the question's."""

    type: int
    data: bytes
    name: str | None = None


class Answer(Struct, frozen=True):
    """What is said to a question. `authority` as for NXDOMAIN and names without a record of the type."""

    records: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    extra: tuple[Record, ...] = ()
    code: Code = Code.NO_ERROR
    authoritative: bool = True


class Response(Struct, frozen=True):
    """What a resolver answered. `ttl_at`: where a time to live stands; `lives_s`: how long it all holds, None if it is not to be kept."""

    id: int
    flags: int
    code: int
    question: bytes
    ttl_at: tuple[int, ...]
    lives_s: int | None

    @property
    def truncated(self) -> bool:
        return bool(self.flags & Flag.TRUNCATED)


def read_query(packet: bytes) -> Query | bytes | None:
    """A question; or the answer to send at once to what is none of ours; or None for what is not to be answered at all."""
    if len(packet) < HEADER_BYTES:
        return None
    number, flags, *counts = _HEADER.unpack_from(packet)
    if flags & Flag.RESPONSE:
        return None
    if flags & _OPCODE:
        return _bare(number, flags, Code.NOT_IMPLEMENTED)
    try:
        query = _read_query(packet, number, flags, counts)
    except (MalformedError, struct.error):
        return _bare(number, flags, Code.MALFORMED)
    if query.extension and query.extension.version:
        return write_answer(query, Answer(code=Code.BAD_VERSION, authoritative=False))
    return query


def read_response(packet: bytes) -> Response:
    """Reads an answer of a resolver to one question; raises MalformedError."""
    try:
        return _read_response(packet)
    except struct.error as error:
        raise MalformedError(str(error)) from error


def write_answer(query: Query, answer: Answer, *, ttl_s: int = 0, limit_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """Serializes an answer. What does not fit into `limit_bytes` is left out, and the client told that it was."""
    options = _options(query, answer.code)
    room = limit_bytes - HEADER_BYTES - len(query.question) - len(options)
    counts, parts = [0, 0, 0], []
    truncated = False
    for section, records in enumerate((answer.records, answer.authority, answer.extra)):
        for record in records:
            body = _write_record(record, ttl_s)
            if len(body) > room:
                # What is only extra is not missed.
                truncated = truncated or section < 2
                break
            room -= len(body)
            counts[section] += 1
            parts.append(body)
    flags = Flag.RESPONSE | Flag.RECURSION_AVAILABLE | (query.flags & _KEPT) | (answer.code & 0xF)
    flags |= (Flag.AUTHORITATIVE if answer.authoritative else 0) | (Flag.TRUNCATED if truncated else 0)
    header = _HEADER.pack(query.id, flags, 1, counts[0], counts[1], counts[2] + bool(options))
    return b"".join((header, query.question, *parts, options))


def answered_with(packet: bytes, kind: int) -> tuple[tuple[bytes, ...], int]:
    """The data of an answer's records of one type, whatever name they are of, and how long they hold (s); raises MalformedError."""
    try:
        _, _, _, answers, _, _ = _HEADER.unpack_from(packet)
        end = _after_name(packet, HEADER_BYTES) + 4
        found = [(at, ttl_s) for _, (at, each, ttl_s) in _records(packet, end, (answers,)) if each == kind]
        data = tuple(packet[at + 6 : at + 6 + int.from_bytes(packet[at + 4 : at + 6], "big")] for at, _ in found)
    except struct.error as error:
        raise MalformedError(str(error)) from error
    return data, min((ttl_s for _, ttl_s in found), default=0)


def write_query(query: Query, number: int, question: bytes) -> bytes:
    """The question as it is asked of a resolver: with `number`, and without whatever else the client said."""
    options = b""
    if query.extension:
        options = _option(UPSTREAM_UDP_BYTES, 0x8000 if query.extension.dnssec else 0)
    return _HEADER.pack(number, query.flags & (_KEPT | Flag.AUTHENTIC), 1, 0, 0, bool(options)) + question + options


def pass_on(query: Query, packet: bytes, response: Response, *, age_s: int = 0, limit_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """A resolver's answer as the client gets it: to its own question, with what is left of times to live, cut if it can't take it."""
    question_end = HEADER_BYTES + len(query.question)
    if len(packet) > limit_bytes:
        flags = response.flags | Flag.TRUNCATED
        options = _options(query, Code.NO_ERROR)
        return _HEADER.pack(query.id, flags, 1, 0, 0, bool(options)) + query.question + options
    changed = bytearray(packet)
    _TWO.pack_into(changed, 0, query.id, response.flags)
    changed[HEADER_BYTES:question_end] = query.question
    if age_s:
        for at in response.ttl_at:
            left = max(0, int.from_bytes(changed[at : at + 4], "big") - age_s)
            changed[at : at + 4] = left.to_bytes(4, "big")
    return bytes(changed)


def address_record(address: IPv4Address | IPv6Address, name: str | None = None) -> Record:
    return Record(Type.A if address.version == 4 else Type.AAAA, address.packed, name)


def name_record(kind: Type, target: str, name: str | None = None) -> Record:
    """A CNAME or PTR."""
    return Record(kind, write_name(target), name)


def service_record(target: str, port: int, name: str | None = None) -> Record:
    return Record(Type.SRV, struct.pack("!HHH", 0, 100, port) + write_name(target), name)


def authority_record(zone: str, ttl_s: int) -> Record:
    """The start of a zone, by which clients know how long to remember that there is nothing."""
    contact = write_name(f"ns.dns.{zone}") + write_name(f"hostmaster.{zone}")
    return Record(Type.SOA, contact + struct.pack("!IIIII", 1, 7200, 1800, 86400, ttl_s), zone)


def is_name(text: str) -> bool:
    """Whether it can be written as one, in letters that mean the same to everybody."""
    labels = text.encode("ascii", "replace").split(b".")
    return len(text) <= _MAX_NAME_BYTES - 2 and all(0 < len(label) <= 63 and _PLAIN.issuperset(label) for label in labels)


def write_name(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.split(".")] if name else []
    return b"".join((*(bytes((len(label),)) + label for label in labels), b"\0"))


def in_case(question: bytes, bits: int) -> bytes:
    """The question with letters in upper or lower case as `bits` say: who answers must have seen it."""
    made = bytearray(question)
    for at in range(len(made) - 4):
        if made[at] & 0xDF in range(0x41, 0x5B):
            made[at] ^= (bits & 1) << 5
            bits >>= 1
    return bytes(made)


def _read_query(packet: bytes, number: int, flags: int, counts: Sequence[int]) -> Query:
    questions, answers, authorities, extras = counts
    if questions != 1 or answers or authorities or extras > _MAX_EXTRAS:
        raise MalformedError("not one question")
    query = _read_question(packet, number, flags)
    extension = _read_extension(packet, HEADER_BYTES + len(query.question), extras)
    return Query(number, flags, query.question, query.name, query.type, query.klass, extension) if extension else query


def _read_question(packet: bytes, number: int, flags: int) -> Query:
    labels: list[bytes] = []
    at = HEADER_BYTES
    while length := packet[at] if at < len(packet) else _POINTER:
        if length & _POINTER or at - HEADER_BYTES + length + 2 > _MAX_NAME_BYTES:
            raise MalformedError("no plain name")
        labels.append(packet[at + 1 : at + 1 + length])
        at += 1 + length
    kind, klass = _TWO.unpack_from(packet, at + 1)
    joined = b".".join(labels)
    # A dot within a label would make another name of it.
    plain = all(_PLAIN.issuperset(label) for label in labels)
    name = joined.decode("ascii").lower() if plain else ""
    return Query(number, flags, packet[HEADER_BYTES : at + 5], name, kind, klass)


def _read_extension(packet: bytes, at: int, records: int) -> Extension | None:
    found = None
    for _ in range(records):
        begin = at
        at = _after_name(packet, at)
        kind, size, ttl, length = _RECORD.unpack_from(packet, at)
        at += _RECORD.size + length
        if at > len(packet):
            raise MalformedError("a record goes past the end")
        if kind == Type.OPT:
            if found is not None or packet[begin]:
                raise MalformedError("two OPT records, or one with a name")
            found = Extension(version=ttl >> 16 & 0xFF, udp_bytes=size, dnssec=bool(ttl & 0x8000))
    return found


def _read_response(packet: bytes) -> Response:
    number, flags, questions, *counts = _HEADER.unpack_from(packet)
    if not flags & Flag.RESPONSE or flags & _OPCODE or questions != 1 or sum(counts) > _MAX_RECORDS:
        raise MalformedError("no answer to one question")
    end = _after_name(packet, HEADER_BYTES) + 4
    if end > len(packet):
        raise MalformedError("the question goes past the end")
    code = flags & 0xF
    ttls: list[int] = []
    ttl_at: list[int] = []
    negative_s: int | None = None
    for section, (at, kind, ttl_s) in _records(packet, end, counts):
        if kind == Type.OPT:
            code |= ttl_s >> 20 & 0xFF0
            continue
        ttl_at.append(at)
        ttls.append(ttl_s if ttl_s < 1 << 31 else 0)
        if section == 1 and kind == Type.SOA:
            negative_s = min(ttls[-1], _minimum_s(packet, at + 6))
    lives_s = _lives_s(code, counts[0], ttls, negative_s)
    return Response(number, flags, code, packet[HEADER_BYTES:end], tuple(ttl_at), None if flags & Flag.TRUNCATED else lives_s)


def _records(packet: bytes, at: int, counts: Iterable[int]) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Each record: its section, where its time to live stands, its type and that time."""
    for section, count in enumerate(counts):
        for _ in range(count):
            at = _after_name(packet, at)
            kind, _, ttl_s, length = _RECORD.unpack_from(packet, at)
            if at + _RECORD.size + length > len(packet):
                raise MalformedError("a record goes past the end")
            yield section, (at + 4, kind, ttl_s)
            at += _RECORD.size + length


def _lives_s(code: int, answers: int, ttls: list[int], negative_s: int | None) -> int | None:
    if code == Code.NO_ERROR and answers:
        return min(ttls)
    # Of what does not exist the authority says how long (RFC 2308); what failed may work the next time.
    return negative_s if code in {Code.NO_ERROR, Code.NO_NAME} else None


def _minimum_s(packet: bytes, at: int) -> int:
    """Of a SOA whose data begins at `at`."""
    at = _after_name(packet, _after_name(packet, at))
    return int(struct.unpack_from("!IIIII", packet, at)[4])


def _after_name(packet: bytes, at: int) -> int:
    first = at
    while at < len(packet) and at - first < _MAX_NAME_BYTES:
        length = packet[at]
        if length & _POINTER == _POINTER:
            return at + 2
        if length & _POINTER:
            break
        at += 1 + length
        if not length:
            return at
    raise MalformedError("no name")


def _write_record(record: Record, ttl_s: int) -> bytes:
    name = _TO_QUESTION if record.name is None else write_name(record.name)
    return name + _RECORD.pack(record.type, INTERNET, ttl_s, len(record.data)) + record.data


def _options(query: Query, code: Code) -> bytes:
    """EDNS is answered where it was used, and only there."""
    return _option(MAX_UDP_BYTES, code >> 4 << 24) if query.extension else b""


def _option(udp_bytes: int, flags: int) -> bytes:
    return b"\0" + _RECORD.pack(Type.OPT, udp_bytes, flags, 0)


def _bare(number: int, flags: int, code: Code) -> bytes:
    said = Flag.RESPONSE | (flags & (_OPCODE | _KEPT)) | code
    return _HEADER.pack(number, said, 0, 0, 0, 0)
