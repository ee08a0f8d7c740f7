"""Numbers cut into pieces where sets of them begin and end: those of one piece are in the same sets, and pieces alike share a class.

Addresses are numbers of 128 bits here, IPv4 ones in the form of IPv4-mapped IPv6 addresses.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from msgspec import Struct

from meshapi.authorization import IPNetwork
from meshapi.decoding import MAX_PORT
from meshapi.workload import IPAddress
from nodeagent.policy.addresses import plain_network

Span = tuple[int, int]
"""The first number, and the one after the last."""

_FIRST_MAPPED: Final = 0xFFFF << 32
_LAST_MAPPED: Final = _FIRST_MAPPED + (1 << 32) - 1
_ADDRESSES: Final = 1 << 128
_PORTS: Final = MAX_PORT + 1


class Partition(Struct, frozen=True):
    """`starts` are where the pieces begin, ascending from 0; `classes` the class of each; `samples` a number of each class."""

    starts: tuple[int, ...]
    classes: tuple[int, ...]
    samples: tuple[int, ...]


def of_addresses(blocks: Iterable[Sequence[IPNetwork]]) -> Partition:
    """Cuts the addresses by sets of blocks."""
    return _partition(([span for network in networks for span in _spans(network)] for networks in blocks), _ADDRESSES)


def of_ports(ports: Iterable[Iterable[int]]) -> Partition:
    """Cuts the ports, 0 included, by sets of them."""
    return _partition(([(port, port + 1) for port in each] for each in ports), _PORTS)


def number(address: IPAddress) -> int:
    """An address in plain form or not, as a number."""
    return int(address) if isinstance(address, IPv6Address) else _FIRST_MAPPED + int(address)


def address(number: int) -> IPAddress:
    """The address in plain form that has this number."""
    if _FIRST_MAPPED <= number <= _LAST_MAPPED:
        return IPv4Address(number - _FIRST_MAPPED)
    return IPv6Address(number)


def _spans(network: IPNetwork) -> tuple[Span, ...]:
    """A block of IPv6 that has the IPv4-mapped addresses within it holds none of them: they are IPv4's."""
    network = plain_network(network)
    if network.version == 4:
        first = number(network.network_address)
        return ((first, first + network.num_addresses),)
    first, end = int(network.network_address), int(network.network_address) + network.num_addresses
    if first <= _FIRST_MAPPED and end > _LAST_MAPPED:
        return ((first, _FIRST_MAPPED), (_LAST_MAPPED + 1, end))
    return ((first, end),)


def _partition(sets: Iterable[list[Span]], end: int) -> Partition:
    toggled: dict[int, int] = {0: 0}
    for index, spans in enumerate(sets):
        for first, after in _merged(spans):
            for edge in (first, after):
                toggled[edge] = toggled.get(edge, 0) ^ 1 << index
    toggled.pop(end, None)
    starts: list[int] = []
    members: list[int] = []
    classes: dict[int, int] = {}
    samples: list[int] = []
    inside = 0
    for start in sorted(toggled):
        inside ^= toggled[start]
        if inside not in classes:
            classes[inside] = len(classes)
            samples.append(start)
        starts.append(start)
        members.append(classes[inside])
    return Partition(tuple(starts), tuple(members), tuple(samples))


def _merged(spans: list[Span]) -> list[Span]:
    """The same numbers in spans that neither overlap nor touch."""
    merged: list[Span] = []
    for first, after in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], after))
        elif first < after:
            merged.append((first, after))
    return merged
