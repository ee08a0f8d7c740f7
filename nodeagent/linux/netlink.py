"""Routing of this namespace over netlink: delivering marked packets locally, and the addresses that it has.

The socket is opened by the calling thread, which is in the namespace already.
"""

import socket
import struct
import sys
from dataclasses import dataclass
from typing import Final

from nodeagent.linux.rtnetlink import Kind, RouteSocket, encode_attributes

_RTN_LOCAL: Final = 2
_SCOPE_UNIVERSE: Final = 0
_SCOPE_HOST: Final = 254
_TO_TABLE: Final = 1
_IFF_UP: Final = 1

_RULE: Final = struct.Struct("=8BI")
"""family, dst_len, src_len, tos, table, two reserved, action; flags."""
_FRA_PRIORITY: Final = 6
_FRA_FWMARK: Final = 10
_FRA_TABLE: Final = 15
_FRA_FWMASK: Final = 16
_FRA_PROTOCOL: Final = 21

_ROUTE: Final = struct.Struct("=8BI")
"""family, dst_len, src_len, tos, table, protocol, scope, type; flags."""
_RTA_OIF: Final = 4
_RTA_TABLE: Final = 15

_ADDRESS: Final = struct.Struct("=4BI")
"""family, prefix length, flags, scope; interface."""
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2

_LINK: Final = struct.Struct("=BxHiII")
"""family, type, interface, flags, which flags to change."""


@dataclass(frozen=True, slots=True)
class LocalDelivery:
    """A rule and a route that send packets with `mark` (under `mask`) back into this namespace, whatever their destination.

    `protocol` (rtnetlink's, 5 to 255) signs what is ours, so that nothing else is ever deleted.
    """

    mark: int
    mask: int
    table: int
    priority: int
    protocol: int


def install(delivery: LocalDelivery, family: int) -> None:
    """Makes what is missing of the rule and the route; raises KernelError if the table has another default route."""
    with _table(delivery) as link:
        if not _has_route(link, delivery, family):
            link.create(Kind.NEW_ROUTE, _route(delivery, family))
        if not _rules(link, delivery, family):
            link.create(Kind.NEW_RULE, _rule(delivery, family))


def remove(delivery: LocalDelivery, family: int) -> None:
    """Deletes our rule and our route, and nothing else; fine if they are gone."""
    with _table(delivery) as link:
        for _ in range(_rules(link, delivery, family)):
            link.change(Kind.DELETE_RULE, _rule(delivery, family))
        if _has_route(link, delivery, family):
            link.change(Kind.DELETE_ROUTE, _route(delivery, family))


def installed(delivery: LocalDelivery, family: int) -> bool:
    """Whether both are there."""
    with _table(delivery) as link:
        return _rules(link, delivery, family) > 0 and _has_route(link, delivery, family)


def raise_loopback() -> None:
    """Brings the loopback device up, as a new namespace needs."""
    with RouteSocket("loopback device") as link:
        link.change(Kind.SET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex("lo"), _IFF_UP, _IFF_UP))


def addresses() -> tuple[str, ...]:
    """The addresses by which others reach this namespace, sorted: neither loopback nor link-local."""
    found = set()
    with RouteSocket("addresses") as link:
        for message in link.dump(Kind.GET_ADDRESS, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            (family, _, _, scope, _), attributes = message.read(_ADDRESS)
            # On a point-to-point link `address` is the other end, and `local` is ours.
            own = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            if scope == _SCOPE_UNIVERSE and own is not None:
                found.add(socket.inet_ntop(family, own))
    return tuple(sorted(found))


def _table(delivery: LocalDelivery) -> RouteSocket:
    return RouteSocket(f"routing table {delivery.table}", exists_hint="another program uses this table; the mesh needs it")


def _rule(delivery: LocalDelivery, family: int) -> bytes:
    fixed = _RULE.pack(family, 0, 0, 0, _short_table(delivery), 0, 0, _TO_TABLE, 0)
    return fixed + encode_attributes(_rule_attributes(delivery))


def _rule_attributes(delivery: LocalDelivery) -> dict[int, bytes]:
    return {
        _FRA_FWMARK: _number(delivery.mark),
        _FRA_FWMASK: _number(delivery.mask),
        _FRA_PRIORITY: _number(delivery.priority),
        _FRA_PROTOCOL: bytes([delivery.protocol]),
        _FRA_TABLE: _number(delivery.table),
    }


def _route(delivery: LocalDelivery, family: int) -> bytes:
    scope = _SCOPE_HOST if family == socket.AF_INET else _SCOPE_UNIVERSE
    fixed = _ROUTE.pack(family, 0, 0, 0, _short_table(delivery), delivery.protocol, scope, _RTN_LOCAL, 0)
    return fixed + encode_attributes({_RTA_OIF: _number(socket.if_nametoindex("lo")), _RTA_TABLE: _number(delivery.table)})


def _rules(link: RouteSocket, delivery: LocalDelivery, family: int) -> int:
    """How many rules are ours."""
    wanted = _rule_attributes(delivery).items()
    listed = link.dump(Kind.GET_RULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    return sum(wanted <= message.read(_RULE)[1].items() for message in listed)


def _has_route(link: RouteSocket, delivery: LocalDelivery, family: int) -> bool:
    for message in link.dump(Kind.GET_ROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        (_, prefix_bits, _, _, _, protocol, _, kind, _), attributes = message.read(_ROUTE)
        ours = kind == _RTN_LOCAL and protocol == delivery.protocol and prefix_bits == 0
        if ours and attributes.get(_RTA_TABLE) == _number(delivery.table):
            return True
    return False


def _short_table(delivery: LocalDelivery) -> int:
    """The table in the header's one byte; a greater one is in its attribute alone."""
    return delivery.table if delivery.table < 256 else 0


def _number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)
