"""The programs of a workload's cgroup, which mark new connections: filled with the workload's terms, and what they counted.

Three make one: `mark_outbound` decides, and `renew_connect4` and `renew_connect6` see to it that a socket is judged anew each time.
They are found by the cgroup, and by the place of the workload, which is written down in their settings: the inode of its network
namespace or, of a process group, the cgroup's id.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from msgspec import Struct

from nodeagent.bpf import libbpf
from nodeagent.bpf.libbpf import AttachType, Descriptor
from nodeagent.bpf.pinned import HasId, Maps, Pinned, Program
from nodeagent.linux.cgroups import Cgroup

_OBJECTS: Final = Path(__file__).parent / "objects"
SETTINGS: Final = "settings"
OUTCOMES: Final = "outcomes"
PORTS: Final = "ports"
RANGES: Final = "ranges"
OUTSIDE: Final = "outside"
PROGRAM: Final = Program(
    _OBJECTS / "mark_outbound.bpf.o", "mark_outbound", AttachType.CGROUP_SOCK_OPS, (SETTINGS, OUTCOMES, PORTS, RANGES, OUTSIDE)
)
RENEWERS: Final = (
    Program(_OBJECTS / "renew_connect4.bpf.o", "renew_connect4", AttachType.CGROUP_INET4_CONNECT, (), (SETTINGS,)),
    Program(_OBJECTS / "renew_connect6.bpf.o", "renew_connect6", AttachType.CGROUP_INET6_CONNECT, (), (SETTINGS,)),
)
PORTS_ROOM: Final = 1024
RANGES_ROOM: Final = 4096
_ACTIVE: Final = 1
_INCLUDE_REST: Final = 2
_ALONE: Final = 4
_NUMBER_BYTES: Final = 8
_TERM_BYTES: Final = 4
_SETTINGS: Final = struct.Struct("=QQIIII")
_DESTINATION: Final = struct.Struct("=16sHH")
_RANGE: Final = struct.Struct("=I16s")

Address = IPv4Address | IPv6Address


class Outcome(IntEnum):
    """What was made of a connection: `enum outcome` of outbound.h."""

    ELSEWHERE = 0
    FOREIGN = 1
    DEVICE = 2
    LOCAL = 3
    FAILED = 4
    EXCLUDED = 5
    OUTSIDE = 6
    CAPTURED = 7


class Term(IntEnum):
    """What is said of a port or of a range: `enum term` of outbound.h."""

    NONE = 0
    EXCLUDED = 1
    INCLUDED = 2


class Judgements(Struct, frozen=True):
    """What is captured: ports first, then the most specific range, then the rest. Ranges of IPv4 are mapped into IPv6."""

    ports: dict[int, Term] = {}
    ranges: dict[IPv6Network, Term] = {}
    rest_captured: bool = True


class Marks(Struct, frozen=True):
    """Of sockets whose connections are the proxy's, and of those that go past it; 0 for none.

    `alone`: no rules capture what has no mark, so that all must have one, whatever else the socket has.
    """

    captured: int
    past: int
    alone: bool = False


class Site(Struct, frozen=True):
    """Where a workload is: the cookie of its network namespace, by which programs know it, and the place by which it is found again."""

    cookie: int
    place: int


class Marked(Struct, frozen=True):
    """What runs for a workload. `connections` since it was attached."""

    cgroup: int
    current: bool
    """It is this version's, whole, and active."""
    judgements: Judgements
    marks: Marks
    connections: dict[Outcome, int]


class Outbound:
    """See the module. Every method blocks and raises KernelError."""

    def __init__(self, root: Path, program: Program = PROGRAM) -> None:
        """`root`: a directory on a bpffs, made if it is not there."""
        self._marking = Pinned(root, program)
        self._renewing = tuple(Pinned(root, renewer) for renewer in RENEWERS)
        self.changes = 0
        """Grows when tables have come or gone: those that were opened before may be others."""

    def attach(self, cgroup: Cgroup, site: Site, marks: Marks, judgements: Judgements) -> None:
        """Marks what the cgroup's processes dial in this namespace, from now on as `judgements` say.

        While they change, all is captured. What is known to be outside stays known.
        """
        self._marking.attach(cgroup, partial(_fill, site=site, marks=marks, judgements=judgements))
        with self._marking.open(cgroup) as found:
            if found is not None:
                for renewing in self._renewing:
                    renewing.attach(cgroup, shared={SETTINGS: found.maps[SETTINGS]})
        self.changes += 1

    def detach(self, place: int, *, keep: int = 0) -> None:
        """Ends it for a workload, but for the cgroup `keep`, and leaves nothing; fine if there is nothing."""
        self.sweep()
        for cgroup in self._of(place):
            if cgroup.id != keep:
                self._detach(cgroup)
        self.changes += 1

    def inspect(self, place: int) -> Marked | None:
        """What runs for a workload; None if nothing does."""
        for cgroup in self._of(place):
            return self._inspect(cgroup)
        return None

    def sweep(self) -> None:
        """Clears what is left of cgroups that are gone."""
        for pinned in (self._marking, *self._renewing):
            pinned.sweep()

    def outside_of(self, place: int) -> Descriptor | None:
        """The table of destinations that a workload's connections reach past the proxy, the caller's to close; None if it has none."""
        for cgroup in self._of(place):
            with self._marking.open(cgroup) as found:
                if found and OUTSIDE in found.maps:
                    return found.maps[OUTSIDE].duplicate()
        return None

    def forget_outside(self) -> None:
        """Empties these tables for all workloads: nobody has answered for what is in them."""
        for cgroup in self._marking.places():
            with self._marking.open(cgroup) as found:
                if found and OUTSIDE in found.maps:
                    for key, _ in list(libbpf.entries(found.maps[OUTSIDE], _NUMBER_BYTES)):
                        libbpf.delete(found.maps[OUTSIDE], key)

    def _of(self, place: int) -> list[HasId]:
        return [cgroup for cgroup in self._marking.places() if self._place(cgroup) == place]

    def _place(self, cgroup: HasId) -> int:
        with self._marking.open(cgroup) as found:
            body = libbpf.read(found.maps[SETTINGS], 0, _SETTINGS.size) if found and SETTINGS in found.maps else None
            return int(_SETTINGS.unpack(body)[1]) if body else 0

    def _inspect(self, cgroup: HasId) -> Marked | None:
        with self._marking.open(cgroup) as found:
            if found is None or any(name not in found.maps for name in PROGRAM.maps):
                return None
            maps = found.maps
            _, _, captured, past, flags, _ = _SETTINGS.unpack(libbpf.read(maps[SETTINGS], 0, _SETTINGS.size) or bytes(_SETTINGS.size))
            renewed = all(self._is_current(renewing, cgroup, maps[SETTINGS]) for renewing in self._renewing)
            return Marked(
                cgroup=cgroup.id,
                current=found.current and renewed and bool(flags & _ACTIVE),
                judgements=_judgements(maps, rest_captured=bool(flags & _INCLUDE_REST)),
                marks=Marks(captured, past, alone=bool(flags & _ALONE)),
                connections={outcome: _total(maps[OUTCOMES], outcome) for outcome in Outcome},
            )

    @staticmethod
    def _is_current(renewing: Pinned, cgroup: HasId, settings: Descriptor) -> bool:
        with renewing.open(cgroup, shared={SETTINGS: settings}) as found:
            return found is not None and found.current

    def _detach(self, cgroup: HasId) -> None:
        for pinned in (self._marking, *self._renewing):
            pinned.detach(cgroup)


def add_outside(table: Descriptor, address: Address, port: int) -> None:
    """From now on connections to this destination go past the proxy; the one that was used least lately gives way."""
    libbpf.write(table, _destination(address, port), bytes(_NUMBER_BYTES))


def remove_outside(table: Descriptor, address: Address, port: int) -> None:
    """From now on they do not; fine if they did not before."""
    libbpf.delete(table, _destination(address, port))


def outside(table: Descriptor) -> set[tuple[Address, int]]:
    """What is in the table."""
    found: set[tuple[Address, int]] = set()
    for key, _ in libbpf.entries(table, _NUMBER_BYTES):
        raw, port, _ = _DESTINATION.unpack(key)
        address = IPv6Address(raw)
        found.add((address.ipv4_mapped or address, port))
    return found


def mapped(address: Address) -> IPv6Address:
    """As the programs name it."""
    return address if isinstance(address, IPv6Address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


def _destination(address: Address, port: int) -> bytes:
    return _DESTINATION.pack(mapped(address).packed, port, 0)


def _fill(maps: Maps, *, site: Site, marks: Marks, judgements: Judgements) -> None:
    """Changes nothing if all is as it should be; else has all captured while the tables are changed."""
    ports = {struct.pack("=I", port): term for port, term in judgements.ports.items()}
    ranges = {_RANGE.pack(one.prefixlen, one.network_address.packed): term for one, term in judgements.ranges.items()}
    alone = _ALONE if marks.alone else 0
    flags = _ACTIVE | (_INCLUDE_REST if judgements.rest_captured else 0) | alone
    wanted = _SETTINGS.pack(site.cookie, site.place, marks.captured, marks.past, flags, 0)
    if libbpf.read(maps[SETTINGS], 0, _SETTINGS.size) == wanted and (_terms(maps[PORTS]), _terms(maps[RANGES])) == (ports, ranges):
        return
    libbpf.write(maps[SETTINGS], 0, _SETTINGS.pack(site.cookie, site.place, marks.captured, marks.past, alone, 0))
    _replace(maps[PORTS], ports)
    _replace(maps[RANGES], ranges)
    libbpf.write(maps[SETTINGS], 0, wanted)


def _replace(table: Descriptor, wanted: Mapping[bytes, Term]) -> None:
    for key in _terms(table).keys() - wanted.keys():
        libbpf.delete(table, key)
    for key, term in wanted.items():
        libbpf.write(table, key, struct.pack("=I", term))


def _terms(table: Descriptor) -> dict[bytes, Term]:
    return {key: Term(struct.unpack("=I", value)[0]) for key, value in libbpf.entries(table, _TERM_BYTES)}


def _judgements(maps: Maps, *, rest_captured: bool) -> Judgements:
    ranges = ((_RANGE.unpack(key), term) for key, term in _terms(maps[RANGES]).items())
    return Judgements(
        {struct.unpack("=I", key)[0]: term for key, term in _terms(maps[PORTS]).items()},
        {IPv6Network((raw, bits)): term for (bits, raw), term in ranges},
        rest_captured,
    )


def _total(outcomes: Descriptor, outcome: Outcome) -> int:
    cpus = libbpf.possible_cpus()
    values = libbpf.read(outcomes, outcome, cpus * _NUMBER_BYTES)
    return sum(struct.unpack(f"={cpus}Q", values)) if values else 0
