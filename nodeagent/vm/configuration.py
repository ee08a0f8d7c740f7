"""What runs on a machine, as its owner says: a YAML file that need not be there.

address: 10.0.0.5            # default: where the machine's connection to the controller comes from
host: shop/web               # the group that the whole host is of; default: the machine's first group, if there are no units
excludeInboundPorts: [22]    # what is left alone of the whole host; SSH, unless something stands here
annotations: {}              # further terms of the whole host's capture; see `nodeagent.capture.annotations`
units:                       # single units of systemd, or cgroups by their paths
  web.service: shop/web
  db.service: {group: shop/db, address: 10.0.0.6, annotations: {}}
"""

from pathlib import Path
from typing import Final

import msgspec
import yaml
from msgspec import Struct

from meshapi.decoding import MAX_PORT
from meshapi.spiffe import IdentityError
from meshapi.vm import GroupName, VMName
from nodeagent.capture.annotations import TRAFFIC
from nodeagent.policy.addresses import AddressError, parse_address

MAX_BYTES: Final = 1 << 20
EXCLUDE_INBOUND: Final = f"{TRAFFIC}excludeInboundPorts"
_MAX_DEPTH: Final = 8


class ConfigurationError(ValueError):
    """A file that can't be used; the text names it and says what is wrong."""


class _UnitEntry(Struct, frozen=True, forbid_unknown_fields=True):
    group: str
    address: str = ""
    annotations: dict[str, str] = {}


class _File(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    address: str = ""
    host: str = ""
    exclude_inbound_ports: tuple[int, ...] | None = None
    annotations: dict[str, str] = {}
    units: dict[str, str | _UnitEntry] = {}


class Place(Struct, frozen=True):
    """A workload that the machine has or may have: the whole host, or the unit of that name. `address`: its own, if it has one."""

    group: GroupName
    unit: str = ""
    address: str = ""
    shares_address: bool = False
    annotations: dict[str, str] = {}


def read(path: Path, machine: VMName) -> tuple[Place, ...]:
    """The places, the whole host first; without a file, the host is of the machine's first group. Raises ConfigurationError."""
    try:
        return _places(_decode(path), machine)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())}") from error


def _decode(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return _File()
    except OSError as error:
        raise ConfigurationError(error.strerror or str(error)) from error
    if len(text) > MAX_BYTES:
        raise ConfigurationError(f"larger than {MAX_BYTES} bytes")
    _check_depth(text)
    return msgspec.yaml.decode(text, type=_File | None) or _File()


def _check_depth(text: bytes) -> None:
    # Ahead of the decoder: libyaml's composer recurses in C, and enough brackets would end the process.
    depth = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise ConfigurationError("nested too deeply")
    except yaml.YAMLError as error:
        raise ConfigurationError(str(error)) from error


def _places(file: _File, machine: VMName) -> tuple[Place, ...]:
    units = [_unit(name, entry, machine) for name, entry in file.units.items()]
    places = [*_host(file, machine), *units]
    if len({place.group for place in places}) != len(places):
        raise ConfigurationError("a group stands there for two workloads: each has its own")
    # The first that has no address of its own has the machine's; the others are at it without being found by it.
    made: list[Place] = []
    for place in places:
        shares = not place.address and any(not other.address for other in made)
        made.append(msgspec.structs.replace(place, shares_address=shares))
    first = next((index for index, place in enumerate(made) if not place.address), None)
    if first is not None and file.address:
        made = [msgspec.structs.replace(one, address=_address(file.address)) if not one.address else one for one in made]
    return tuple(made)


def _host(file: _File, machine: VMName) -> list[Place]:
    if file.units and not file.host:
        return []
    annotations = dict(file.annotations)
    if file.exclude_inbound_ports is not None:
        annotations[EXCLUDE_INBOUND] = ",".join(str(_port(port)) for port in file.exclude_inbound_ports)
    return [Place(_group(file.host, machine) if file.host else machine.groups[0], annotations=annotations)]


def _unit(name: str, entry: str | _UnitEntry, machine: VMName) -> Place:
    parts = name.split("/")
    if "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise ConfigurationError(f"{name[:80]!r} is neither a unit nor a path of a cgroup below its mount")
    unit = _UnitEntry(entry) if isinstance(entry, str) else entry
    return Place(_group(unit.group, machine), name, _address(unit.address) if unit.address else "", annotations=unit.annotations)


def _group(text: str, machine: VMName) -> GroupName:
    try:
        group = GroupName.parse(text)
    except IdentityError as error:
        raise ConfigurationError(f"{text[:80]!r} is no group, which is namespace/name: {error}") from error
    if group not in machine.groups:
        known = ", ".join(str(one) for one in machine.groups)
        raise ConfigurationError(f"this machine may not join {group}: its bundle was made for {known}")
    return group


def _address(text: str) -> str:
    try:
        return str(parse_address(text))
    except AddressError as error:
        raise ConfigurationError(str(error)) from error


def _port(number: int) -> int:
    if not 0 < number <= MAX_PORT:
        raise ConfigurationError(f"{number} is no port: 1 to {MAX_PORT}")
    return number
