"""Addresses for hosts that were given none: the same in every replica and after every restart, since only the hosts decide.

Each host has a row of places, by its hash, and gets the first that no older host has. So an address changes only if a host goes, or an
older one comes, whose row has the same place: with a thousand hosts, one in a hundred shares its first place with another. The ranges
are Istio's, and nobody's in the Internet; every host gets one address of each family.
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from control.kinds import ObjectKey
from control.validation import values
from meshapi.workload import IPAddress, ServiceKey

_PLACES: Final = 65534
_ROW: Final = 64
"""Places that a host tries. It gets none if older ones have all of them, which takes tens of thousands of hosts."""

Order = tuple[bool, str, str, str]
"""Who goes first: the age of the object, then its name."""


class HandedOut:
    """`put` says for which hosts an object wants addresses, `addresses` which ones a host has."""

    def __init__(self) -> None:
        self._askers: dict[ServiceKey, dict[ObjectKey, Order]] = {}
        self._of: dict[ObjectKey, frozenset[ServiceKey]] = {}
        self._place: dict[ServiceKey, int] = {}
        self._at: dict[int, ServiceKey] = {}
        self._passed: dict[int, set[ServiceKey]] = {}
        """By place, the hosts in whose row it comes before the one that they have."""
        self._before: dict[ServiceKey, int | None] = {}
        """Which place each host had that the running change moved."""

    def addresses(self, host: ServiceKey) -> tuple[IPAddress, ...]:
        """One of each family; none if nobody wants any for the host."""
        place = self._place.get(host)
        if place is None:
            return ()
        ipv4, ipv6 = values.HANDED_OUT
        return IPv4Address(int(ipv4.network_address) + place), IPv6Address(int(ipv6.network_address) + place)

    def put(self, key: ObjectKey, hosts: Iterable[ServiceKey], order: Order) -> set[ObjectKey]:
        """Replaces what an object wants; returns the objects that want a host whose addresses changed."""
        before, after = self._of.pop(key, frozenset()), frozenset(hosts)
        if after:
            self._of[key] = after
        self._before = {}
        for host in sorted(before | after):
            self._leave(host)
            askers = self._askers.pop(host, {})
            askers.pop(key, None)
            if host in after:
                askers[key] = order
            if askers:
                self._askers[host] = askers
                self._enter(host)
        changed = [host for host, place in self._before.items() if self._place.get(host) != place]
        return {asker for host in changed for asker in self._askers.get(host, ())}

    def _order(self, host: ServiceKey) -> tuple[Order, ServiceKey]:
        return min(self._askers[host].values()), host

    def _enter(self, host: ServiceKey) -> None:
        """Finds the host its place; who is younger and has that goes on to the next of its own row."""
        row = list(_row(host))
        while row:
            place = row.pop(0)
            holder = self._at.get(place)
            if holder is not None and self._order(holder) < self._order(host):
                self._passed.setdefault(place, set()).add(host)
                continue
            self._take(host, place)
            if holder is None:
                return
            self._passed.setdefault(place, set()).add(holder)
            host, row = holder, _rest(holder, place)
        self._note(host)
        self._place.pop(host, None)

    def _leave(self, host: ServiceKey) -> None:
        """Takes the host out; the oldest that passed its place moves there, and leaves its own to others in turn."""
        self._note(host)
        self._unpass(host, _row(host))
        place = self._place.pop(host, None)
        while place is not None:
            del self._at[place]
            if not (waiting := self._passed.get(place)):
                return
            host = min(waiting, key=self._order)
            own = self._place.get(host)
            self._unpass(host, (place, *_rest(host, place)))
            self._take(host, place)
            place = own

    def _take(self, host: ServiceKey, place: int) -> None:
        self._note(host)
        self._at[place] = host
        self._place[host] = place

    def _note(self, host: ServiceKey) -> None:
        self._before.setdefault(host, self._place.get(host))

    def _unpass(self, host: ServiceKey, places: Iterable[int]) -> None:
        for place in places:
            if waiting := self._passed.get(place):
                waiting.discard(host)
                if not waiting:
                    del self._passed[place]


@lru_cache(maxsize=65536)
def _row(host: ServiceKey) -> tuple[int, ...]:
    digests = (blake2b(f"{attempt}/{host}".encode(), digest_size=8).digest() for attempt in range(_ROW))
    return tuple(dict.fromkeys(int.from_bytes(digest, "big") % _PLACES + 1 for digest in digests))


def _rest(host: ServiceKey, place: int) -> list[int]:
    """What comes after a place in a host's row."""
    row = _row(host)
    return list(row[row.index(place) + 1 :])
