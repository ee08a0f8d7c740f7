"""The steering program for the units of a host: whose ports are whose, and the listeners of each. Pinned, once a network."""

import socket
import struct
from collections.abc import Collection, Mapping
from enum import IntEnum
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct

from nodeagent.bpf import libbpf
from nodeagent.bpf.libbpf import AttachType
from nodeagent.bpf.outbound import Address, mapped
from nodeagent.bpf.pinned import HasId, Maps, Pinned, Place, Program

CLAIMS: Final = "claims"
SLOTS: Final = "unit_slots"
LOOKUPS: Final = "unit_lookups"
PROGRAM: Final = Program(Path(__file__).parent / "objects/steer_units.bpf.o", "steer_units", AttachType.SK_LOOKUP, (CLAIMS, SLOTS, LOOKUPS))
_UNIT: Final = struct.Struct("=Q")
_CLAIM: Final = struct.Struct("=16sI")
_SLOT: Final = struct.Struct("=QII")
_LOOKUPS: Final = struct.Struct("=QQQ")


class Slot(IntEnum):
    """Whose listener: `enum unit_listener` of units.h."""

    INBOUND = 0
    INBOUND6 = 1
    HBONE = 2
    HBONE6 = 3


class Claim(NamedTuple):
    """What is one unit's of its host. `address` None: any that has no claim of its own."""

    address: Address | None
    port: int


class Lookups(NamedTuple):
    """What became of handshakes to a unit, since it claimed something."""

    inbound: int = 0
    hbone: int = 0
    closed: int = 0


class Steered(Struct, frozen=True):
    """What is a unit's now. `listeners` are the slots whose socket lives."""

    current: bool
    """The program is this version's."""
    claims: frozenset[Claim]
    others: frozenset[Claim]
    """What other units have."""
    listeners: frozenset[Slot]
    lookups: Lookups


class UnitSteering:
    """See the module. Units are the ids of their cgroups. Every method blocks and raises KernelError."""

    def __init__(self, root: Path) -> None:
        """`root`: a directory on a bpffs, made if it is not there."""
        self._pinned = Pinned(root, PROGRAM)

    def claim(self, network: Place, unit: int, claims: Collection[Claim], listeners: Mapping[Slot, socket.socket]) -> None:
        """Steers these and no others to the unit's listeners; what another unit has stays that one's.

        Listeners that are not named stay as they are.
        """
        self._pinned.attach(network, partial(_fill, unit=unit, claims=claims, listeners=listeners))

    def release(self, network: HasId, unit: int) -> None:
        """Steers nothing to the unit any more; fine if nothing is. The last one takes the program off."""
        with self._pinned.open(network) as found:
            if found is None:
                return
            _drop(found.maps, unit)
            unused = not list(libbpf.entries(found.maps[LOOKUPS], _lookups_bytes()))
        if unused:
            self._pinned.detach(network)

    def inspect(self, network: HasId, unit: int) -> Steered | None:
        """What is the unit's; None if it never claimed anything, or was released."""
        with self._pinned.open(network) as found:
            if found is None or libbpf.read(found.maps[LOOKUPS], _UNIT.pack(unit), _lookups_bytes()) is None:
                return None
            owners = _claims(found.maps)
            mine = frozenset(claim for claim, owner in owners.items() if owner == unit)
            listeners = frozenset(slot for slot in Slot if libbpf.read(found.maps[SLOTS], _slot(unit, slot), _UNIT.size) is not None)
            return Steered(found.current, mine, frozenset(owners.keys() - mine), listeners, _lookups(found.maps, unit))

    def sweep(self) -> None:
        """Clears what is left of networks that are gone."""
        self._pinned.sweep()


def _fill(maps: Maps, *, unit: int, claims: Collection[Claim], listeners: Mapping[Slot, socket.socket]) -> None:
    """Listeners first: a claim without one is closed."""
    if libbpf.read(maps[LOOKUPS], _UNIT.pack(unit), _lookups_bytes()) is None:
        libbpf.write(maps[LOOKUPS], _UNIT.pack(unit), bytes(_lookups_bytes()))
    for slot, listener in listeners.items():
        libbpf.write(maps[SLOTS], _slot(unit, slot), struct.pack("=Q", listener.fileno()))
    owners = _claims(maps)
    for claim in claims:
        if claim not in owners:
            libbpf.write(maps[CLAIMS], _packed(claim), _UNIT.pack(unit))
    for claim, owner in owners.items():
        if owner == unit and claim not in claims:
            libbpf.delete(maps[CLAIMS], _packed(claim))


def _drop(maps: Maps, unit: int) -> None:
    for claim, owner in _claims(maps).items():
        if owner == unit:
            libbpf.delete(maps[CLAIMS], _packed(claim))
    for slot in Slot:
        libbpf.delete(maps[SLOTS], _slot(unit, slot))
    libbpf.delete(maps[LOOKUPS], _UNIT.pack(unit))


def _claims(maps: Maps) -> dict[Claim, int]:
    found: dict[Claim, int] = {}
    for key, owner in libbpf.entries(maps[CLAIMS], _UNIT.size):
        raw, port = _CLAIM.unpack(key)
        address = IPv6Address(raw)
        found[Claim((address.ipv4_mapped or address) if any(raw) else None, port)] = _UNIT.unpack(owner)[0]
    return found


def _lookups(maps: Maps, unit: int) -> Lookups:
    values = libbpf.read(maps[LOOKUPS], _UNIT.pack(unit), _lookups_bytes())
    return Lookups(*map(sum, zip(*_LOOKUPS.iter_unpack(values), strict=True))) if values else Lookups()


def _lookups_bytes() -> int:
    return libbpf.possible_cpus() * _LOOKUPS.size


def _slot(unit: int, slot: Slot) -> bytes:
    return _SLOT.pack(unit, slot, 0)


def _packed(claim: Claim) -> bytes:
    return _CLAIM.pack(mapped(claim.address).packed if claim.address else bytes(16), claim.port)
