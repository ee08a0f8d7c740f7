"""The steering program in a workload's network namespace: filled with listeners, and what it counts. Pinned as `pinned` says."""

import errno
import socket
import struct
from collections.abc import Mapping
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from nodeagent.bpf import libbpf, prefilter
from nodeagent.bpf.kubelet import PROBES, drop_probes, known_probes, probes
from nodeagent.bpf.libbpf import AttachType, Descriptor
from nodeagent.bpf.pinned import Maps, Pinned, Program
from nodeagent.bpf.prefilter import Published, Table
from nodeagent.bpf.ringbuffer import RingBuffer
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace

OBJECT: Final = Path(__file__).parent / "objects/steer_inbound.bpf.o"
PROGRAM: Final = "steer_inbound"
SLOTS: Final = "slots"
REASONS: Final = "reasons"
TERMS: Final = "terms"
MAPS: Final = (SLOTS, REASONS, TERMS, *prefilter.MAPS)
_NUMBER_BYTES: Final = 8
_SO_COOKIE: Final = 57
_PORT_BYTES: Final = 1 << 13
_ONLY: Final = 0
_AWAY: Final = 1
_SHARED: Final = 2


class Slot(IntEnum):
    """Whose listener: `enum slot` of steering.h."""

    INBOUND = 0
    INBOUND6 = 1
    HBONE = 2
    PROBE = 3
    PROBE6 = 4


class Reason(IntEnum):
    """Why a lookup ended as it did: `enum reason` of steering.h."""

    NOT_TCP = 0
    LOOPBACK = 1
    OWN = 2
    INBOUND = 3
    HBONE = 4
    NO_LISTENER = 5
    NOT_ASSIGNED = 6
    DENIED = 7
    DENIED_SAME = 8
    PROBE = 9
    PROBE_TOLD = 10
    LEFT_ALONE = 11
    OPEN = 12
    ASKED = 13
    CLAIMED = 14


class Steered(Struct, frozen=True):
    """What runs in a namespace. `lookups` since it was attached; `listeners` are the slots whose socket lives."""

    current: bool
    """It is this version's program."""
    listeners: frozenset[Slot]
    lookups: dict[Reason, int]
    terms: bytes
    """In the form that `encode` gives them."""


def program_of(path: Path = OBJECT) -> Program:
    """The program in an object file."""
    return Program(path, PROGRAM, AttachType.SK_LOOKUP, MAPS, (PROBES,))


class Steering:
    """See the module. Every method blocks and raises KernelError."""

    def __init__(self, root: Path, program: Path = OBJECT) -> None:
        """`root`: a directory on a bpffs, made if it is not there. `program`: the object file."""
        self._root = root
        self._pinned = Pinned(root, program_of(program))

    def attach(self, namespace: Namespace, listeners: Mapping[Slot, socket.socket], terms: Terms = TOTAL, *, away: bool = False) -> None:
        """Steers into these listeners from now on, as `terms` have it; slots that are not named stay as they are.

        `away`: nobody accepts from the listeners; if it may fail open, it does.
        """
        fill = partial(_fill, listeners=listeners, terms=encode(terms, away=away))
        with probes(self._root) as table:
            self._pinned.attach(namespace, fill, shared={PROBES: table})

    def detach(self, namespace: Namespace) -> None:
        """Ends it, and leaves nothing; fine if there is nothing."""
        self._pinned.detach(namespace)
        drop_probes(self._root)

    def inspect(self, namespace: Namespace) -> Steered | None:
        """What runs there; None if nothing does."""
        with known_probes(self._root) as shared, self._pinned.open(namespace, shared=shared) as found:
            if found is None:
                return None
            slots, reasons, terms = (found.maps.get(name) for name in (SLOTS, REASONS, TERMS))
            return Steered(
                current=found.current and bool(shared),
                listeners=frozenset(slot for slot in Slot if slots and libbpf.read(slots, slot, _NUMBER_BYTES) is not None),
                lookups={reason: _total(reasons, reason) if reasons else 0 for reason in Reason},
                terms=(terms and libbpf.read(terms, _ONLY, len(encode(TOTAL)))) or b"",
            )

    def refuse(self, namespace: Namespace, table: Table | None) -> None:
        """Refuses by this table from now on, or by none; raises KernelError (ENOENT) where the program is not attached."""
        with self._pinned.open(namespace) as found:
            if found is None or not found.current:
                raise KernelError(errno.ENOENT, f"steering of {namespace.path}", detail="not attached, or of another version")
            prefilter.publish(found.maps, table)

    def refusing(self, namespace: Namespace) -> Published | None:
        """By which table it refuses; None if the program is not attached."""
        with self._pinned.open(namespace) as found:
            return None if found is None else prefilter.published(found.maps)

    def take_denied(self, namespace: Namespace) -> dict[int, int]:
        """How many connections it has refused since this was last asked; see `prefilter.take_denied`."""
        with self._pinned.open(namespace) as found:
            return {} if found is None else prefilter.take_denied(found.maps)

    def refusals(self, namespace: Namespace) -> RingBuffer:
        """What it tells of refused connections, each a record for `prefilter.decode`; raises KernelError where nothing is attached."""
        return RingBuffer(self._pinned.pin(namespace, prefilter.REFUSALS))

    def sweep(self) -> None:
        """Clears what is left of namespaces that are gone."""
        self._pinned.sweep()
        drop_probes(self._root)


def encode(terms: Terms, *, away: bool = False) -> bytes:
    """`struct terms` of terms.h: a bit for each port that is left alone, then whether it fails open, and flags."""
    ports = 0
    for first, last in terms.open_inbound():
        ports |= (1 << (last + 1)) - (1 << first)
    words = ports.to_bytes(_PORT_BYTES, "little")
    flags = (_AWAY if away else 0) | (_SHARED if terms.whole_host else 0)
    return struct.pack(f"={_PORT_BYTES // 8}Q", *struct.unpack(f"<{_PORT_BYTES // 8}Q", words)) + struct.pack("=II", terms.fail_open, flags)


def _fill(maps: Maps, *, listeners: Mapping[Slot, socket.socket], terms: bytes) -> None:
    if libbpf.read(maps[TERMS], _ONLY, len(terms)) != terms:
        libbpf.write(maps[TERMS], _ONLY, terms)
    for slot, listener in listeners.items():
        cookie = listener.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _NUMBER_BYTES)
        if libbpf.read(maps[SLOTS], slot, _NUMBER_BYTES) != cookie:
            libbpf.write(maps[SLOTS], slot, struct.pack("=Q", listener.fileno()))


def _total(reasons: Descriptor, reason: Reason) -> int:
    cpus = libbpf.possible_cpus()
    values = libbpf.read(reasons, reason, cpus * _NUMBER_BYTES)
    return sum(struct.unpack(f"={cpus}Q", values)) if values else 0
