"""The table of what steering refuses at the first packet, as the kernel has it: written as one, counted, and told one by one.

Its layout is `src/prefilter.h`.
"""

import struct
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, TypeVar

from msgspec import Struct

from meshapi.workload import IPAddress
from nodeagent.bpf import libbpf
from nodeagent.bpf.info import MapInfo
from nodeagent.bpf.pinned import Maps
from nodeagent.policy.partition import address, number
from nodeagent.policy.prefilter import MAX_CLASSES, MAX_DENIALS, MAX_DESTINATIONS, MAX_PORTS, MAX_SOURCES, Prefilter

T = TypeVar("T")
PREFILTER: Final = "prefilter"
DENIED: Final = "denied"
TELLING: Final = "telling"
REFUSALS: Final = "refusals"
MAPS: Final = (PREFILTER, DENIED, TELLING, REFUSALS)

TABLE_BYTES: Final = 36368
_ONES: Final = (1 << 128) - 1
_LAST_PORT: Final = 65535
_ARRAY: Final = 2
_HEADER: Final = struct.Struct("=QQ")
_REFUSAL: Final = struct.Struct("=QQ16s16sHH4x")
REFUSAL_BYTES: Final = _REFUSAL.size
_TELLING: Final = struct.Struct("=QQQ")
_NUMBER: Final = struct.Struct("=Q")


class Table(Struct, frozen=True):
    """What is published. `digest` is of its content."""

    digest: int
    body: bytes


class Published(Struct, frozen=True):
    """What is in force. `digest`: of the table, None without one. `shed`: refusals that were counted only, and not told one by one."""

    digest: int | None
    shed: int


class Refusal(Struct, frozen=True):
    """One refused connection. `at_ns` since the machine was started, by the monotonic clock."""

    at_ns: int
    denial: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    port: int


def denial_number(policy: str | None) -> int:
    """What the kernel knows a policy by, the same in each version of each table; 0: none of them decided."""
    return 0 if policy is None else int.from_bytes(blake2b(policy.encode(), digest_size=8).digest(), "big") | 1


def encode(prefilter: Prefilter) -> Table:
    """Lays a table out for the kernel."""
    numbers = [denial_number(denial.policy) for denial in prefilter.denials]
    plaintext = [
        _bytes(row, MAX_CLASSES) for rows in _filled(prefilter.plaintext, MAX_DESTINATIONS, ()) for row in _filled(rows, MAX_CLASSES, ())
    ]
    content = b"".join((
        *(_packed(number(one)) for one in prefilter.destinations),
        _packed(_ONES) * (MAX_DESTINATIONS - len(prefilter.destinations)),
        *(_packed(start) for start in prefilter.sources.starts),
        _packed(_ONES) * (MAX_SOURCES - len(prefilter.sources.starts)),
        struct.pack(f"={MAX_PORTS}H", *_filled(prefilter.ports.starts, MAX_PORTS, _LAST_PORT)),
        # Of what begins after the last number there is: nothing, or that number itself.
        _bytes(prefilter.sources.classes, MAX_SOURCES, prefilter.sources.classes[-1]),
        _bytes(prefilter.ports.classes, MAX_PORTS, prefilter.ports.classes[-1]),
        *plaintext,
        _bytes(prefilter.tunnels, MAX_CLASSES),
        struct.pack(f"={MAX_DENIALS + 1}Q", *_filled((0, *numbers), MAX_DENIALS + 1, 0)),
    ))  # fmt: skip
    digest = int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
    return Table(digest, _HEADER.pack(digest, 0) + content)


def decode(record: bytes) -> Refusal:
    """Reads what the kernel tells of a refused connection."""
    at_ns, denial, source, destination, source_port, port = _REFUSAL.unpack(record)
    return Refusal(at_ns, denial, _address(source), _address(destination), source_port, port)


def publish(maps: Maps, table: Table | None) -> None:
    """Puts a table in the place of the one in force, which may be none; from when this returns no lookup is by the former."""
    if table is None:
        libbpf.delete(maps[PREFILTER], 0)
        return
    with libbpf.create(PREFILTER, MapInfo(_ARRAY, 4, TABLE_BYTES, 1)) as inner:
        libbpf.write(inner, 0, table.body)
        # The kernel waits here for those that read the former.
        libbpf.write(maps[PREFILTER], 0, struct.pack("=I", inner.fileno()))


def published(maps: Maps) -> Published:
    """What is in force there. Of maps that a former version did not have there is nothing."""
    return Published(_digest(maps) if PREFILTER in maps else None, _shed(maps) if TELLING in maps else 0)


def take_denied(maps: Maps) -> dict[int, int]:
    """How many connections were refused since this was last asked, by the number of what denied them; whoever asks first has them."""
    if DENIED not in maps:
        return {}
    return {_NUMBER.unpack(key)[0]: _NUMBER.unpack(count)[0] for key, count in libbpf.take(maps[DENIED], _NUMBER.size)}


def _digest(maps: Maps) -> int | None:
    identifier = libbpf.read(maps[PREFILTER], 0, 4)
    if identifier is None:
        return None
    with libbpf.map_by_id(struct.unpack("=I", identifier)[0]) as inner:
        return int(_HEADER.unpack_from(libbpf.read(inner, 0, TABLE_BYTES) or bytes(TABLE_BYTES))[0])


def _shed(maps: Maps) -> int:
    values = libbpf.read(maps[TELLING], 0, _TELLING.size * libbpf.possible_cpus()) or b""
    return sum(shed for _, _, shed in _TELLING.iter_unpack(values))


def _packed(number: int) -> bytes:
    """A `struct address`."""
    return struct.pack("=QQ", number >> 64, number & (1 << 64) - 1)


def _address(packed: bytes) -> IPAddress:
    high, low = struct.unpack("=QQ", packed)
    return address(high << 64 | low)


def _bytes(values: Iterable[int], length: int, rest: int = 0) -> bytes:
    return bytes(_filled(values, length, rest))


def _filled(values: Iterable[T], length: int, rest: T) -> tuple[T, ...]:
    there = tuple(values)
    return there + (rest,) * (length - len(there))
