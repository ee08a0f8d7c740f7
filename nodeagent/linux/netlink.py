"""Routing of this namespace over netlink: delivering marked packets locally, and the addresses that it has.

The socket is opened by the calling thread, which is in the namespace already: the library's own way into a namespace forks.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from nodeagent.linux.errors import KernelError

_RTN_LOCAL: Final = 2
_SCOPE_UNIVERSE: Final = 0
_SCOPE_HOST: Final = 254


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
    with _netlink(f"routing table {delivery.table}") as link:
        if not _routes(link, delivery, family):
            link.route("add", **_route(link, delivery, family))
        if not _rules(link, delivery, family):
            link.rule("add", **_rule(delivery, family))


def remove(delivery: LocalDelivery, family: int) -> None:
    """Deletes our rule and our route, and nothing else; fine if they are gone."""
    with _netlink(f"routing table {delivery.table}") as link:
        for _ in _rules(link, delivery, family):
            link.rule("del", **_rule(delivery, family))
        for _ in _routes(link, delivery, family):
            link.route("del", **_route(link, delivery, family))


def installed(delivery: LocalDelivery, family: int) -> bool:
    """Whether both are there."""
    with _netlink(f"routing table {delivery.table}") as link:
        return bool(_rules(link, delivery, family) and _routes(link, delivery, family))


def addresses() -> tuple[str, ...]:
    """The addresses by which others reach this namespace, sorted: neither loopback nor link-local."""
    with _netlink("addresses") as link:
        found = {dict(entry["attrs"])["IFA_ADDRESS"] for entry in link.get_addr() if entry["scope"] == _SCOPE_UNIVERSE}
    return tuple(sorted(str(address) for address in found))


@contextmanager
def _netlink(subject: str) -> Iterator[Any]:
    """An open netlink socket; Any, for the library has no types."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as link:
            yield link
    except NetlinkError as error:
        hint = "another program uses this table; the mesh needs it" if error.code == errno.EEXIST else ""
        raise KernelError(error.code, subject, hint) from error


def _rule(delivery: LocalDelivery, family: int) -> dict[str, Any]:
    return {
        "family": family,
        "fwmark": delivery.mark,
        "fwmask": delivery.mask,
        "table": delivery.table,
        "priority": delivery.priority,
        "protocol": delivery.protocol,
    }


def _route(link: Any, delivery: LocalDelivery, family: int) -> dict[str, Any]:
    return {
        "family": family,
        "dst": "default",
        "oif": link.link_lookup(ifname="lo")[0],
        "table": delivery.table,
        "type": "local",
        "scope": _SCOPE_HOST if family == socket.AF_INET else _SCOPE_UNIVERSE,
        "proto": delivery.protocol,
    }


def _rules(link: Any, delivery: LocalDelivery, family: int) -> list[Any]:
    wanted = {
        "FRA_FWMARK": delivery.mark,
        "FRA_FWMASK": delivery.mask,
        "FRA_PRIORITY": delivery.priority,
        "FRA_PROTOCOL": delivery.protocol,
        "FRA_TABLE": delivery.table,
    }
    return [rule for rule in link.get_rules(family=family) if wanted.items() <= dict(rule["attrs"]).items()]


def _routes(link: Any, delivery: LocalDelivery, family: int) -> list[Any]:
    return [
        route
        for route in link.get_routes(family=family, table=delivery.table)
        if route["type"] == _RTN_LOCAL
        and route["proto"] == delivery.protocol
        and route["dst_len"] == 0
        and dict(route["attrs"]).get("RTA_TABLE") == delivery.table
    ]
