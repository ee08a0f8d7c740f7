"""What runs on a machine, as its owner says: a YAML file that need not be there.

address: 10.0.0.5            # default: where the machine's connection to the controller comes from
                             # or two, as [10.0.0.5, fd00::5]: one of each IP version
host: shop/web               # the group that the whole host is of; default: the machine's first that is no unit's
excludeInboundPorts: [22]    # what is left alone of the whole host; SSH, unless something stands here
annotations: {}              # further terms of the whole host's capture; see `nodeagent.capture.annotations`
execProbes: false            # whether a group's probe may run programs here, as root: who may change the group could do so
units:                       # single units of systemd, or cgroups by their paths; each of a group, or a service account, of the bundle's
  web.service: shop/web
  db.service: {group: shop/db, address: 10.0.0.6, ports: [5432], annotations: {}}   # ports: those of its group, if none stand here
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec
import yaml
from msgspec import Struct

from meshapi.decoding import MAX_PORT
from meshapi.spiffe import IdentityError
from meshapi.vm import GroupName
from nodeagent.capture.annotations import TRAFFIC
from nodeagent.policy.addresses import AddressError, parse_address
from nodeagent.vm.membership import Membership

MAX_BYTES: Final = 1 << 20
EXCLUDE_INBOUND: Final = f"{TRAFFIC}excludeInboundPorts"
_MAX_DEPTH: Final = 8


class ConfigurationError(ValueError):
    """A file that can't be used; the text names it and says what is wrong."""


_Addresses = str | tuple[str, ...]


class _UnitEntry(Struct, frozen=True, forbid_unknown_fields=True):
    group: str
    address: _Addresses = ""
    ports: tuple[int, ...] = ()
    annotations: dict[str, str] = {}


class _File(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    address: _Addresses = ""
    host: str = ""
    exclude_inbound_ports: tuple[int, ...] | None = None
    annotations: dict[str, str] = {}
    exec_probes: bool = False
    units: dict[str, str | _UnitEntry] = {}


class Place(Struct, frozen=True):
    """A workload that the machine has or may have: the whole host, or the unit of that name.

    `address`: its own, if it has one; `other_address`: one of the other IP version beside it.
    """

    group: GroupName
    unit: str = ""
    address: str = ""
    other_address: str = ""
    shares_address: bool = False
    ports: tuple[int, ...] = ()
    annotations: dict[str, str] = {}


class Configuration(Struct, frozen=True):
    """The places, the whole host first."""

    places: tuple[Place, ...] = ()
    exec_probes: bool = False


def read(path: Path, membership: Membership) -> Configuration:
    """Without a file, the host is of the machine's first group. Raises ConfigurationError."""
    try:
        file = _decode(path)
        return Configuration(_places(file, membership), file.exec_probes)
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


def _places(file: _File, membership: Membership) -> tuple[Place, ...]:
    units = [_unit(name, entry, membership) for name, entry in file.units.items()]
    places = [*_host(file, membership, {unit.group for unit in units}), *units]
    if not places or len({place.group for place in places}) != len(places):
        raise ConfigurationError("a group stands there for two workloads: each has its own")
    # The first that has no address of its own has the machine's; the others are at it without being found by it.
    first = next((index for index, place in enumerate(places) if not place.address), None)
    own, other = _addresses(file.address)
    return tuple(
        place
        if place.address
        else msgspec.structs.replace(place, address=own, other_address=other if index == first else "", shares_address=index != first)
        for index, place in enumerate(places)
    )


def _host(file: _File, membership: Membership, of_units: Collection[GroupName]) -> list[Place]:
    left = [group for group in membership.machine.groups if group not in of_units]
    if not file.host and not left:
        return []
    annotations = dict(file.annotations)
    if file.exclude_inbound_ports is not None:
        annotations[EXCLUDE_INBOUND] = ",".join(str(_port(port)) for port in file.exclude_inbound_ports)
    return [Place(_group(file.host, membership) if file.host else left[0], annotations=annotations)]


def _unit(name: str, entry: str | _UnitEntry, membership: Membership) -> Place:
    parts = name.split("/")
    if "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise ConfigurationError(f"{name[:80]!r} is neither a unit nor a path of a cgroup below its mount")
    unit = _UnitEntry(entry) if isinstance(entry, str) else entry
    return Place(
        _group(unit.group, membership),
        name,
        *_addresses(unit.address),
        ports=tuple(sorted({_port(port) for port in unit.ports})),
        annotations=unit.annotations,
    )


def _group(text: str, membership: Membership) -> GroupName:
    """A group of the machine, by its name or, where only one has it, by its service account."""
    try:
        named = GroupName.parse(text)
    except IdentityError as error:
        raise ConfigurationError(f"{text[:80]!r} is neither a group nor an account, which is namespace/name: {error}") from error
    groups = membership.machine.groups
    if named in groups:
        return named
    found = [group for group in groups if (group.namespace, membership.accounts.get(str(group))) == (named.namespace, named.name)]
    if len(found) != 1:
        known = ", ".join(str(one) for one in groups)
        raise ConfigurationError(f"{named} is {'several' if found else 'none'} of the groups that this machine may join: {known}")
    return found[0]


def _addresses(given: _Addresses) -> tuple[str, str]:
    """The first, and the one of the other IP version; empty where there is none."""
    try:
        found = [parse_address(text) for text in ((given,) if isinstance(given, str) else given) if text]
    except AddressError as error:
        raise ConfigurationError(str(error)) from error
    if len({one.version for one in found}) != len(found):
        raise ConfigurationError("of two addresses one is of IPv4 and one of IPv6")
    first, other, *_ = (*map(str, found), "", "")
    return first, other


def _port(number: int) -> int:
    if not 0 < number <= MAX_PORT:
        raise ConfigurationError(f"{number} is no port: 1 to {MAX_PORT}")
    return number
