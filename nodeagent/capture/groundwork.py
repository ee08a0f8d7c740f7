"""What each capture that needs rules stands on: sysctls, and the way of marked packets back into the namespace. Runs in the namespace.

What the sysctls were before is remembered by the rules themselves, in the kernel, so that removal restores them whoever does it.
"""

import re
import socket
from typing import Final

from meshapi.wire import CONNECTION_MARK, MARK_MASK, ROUTE_TABLE
from nodeagent.linux import netlink, sysctl
from nodeagent.linux.sockets import has_loopback6

# The application's side of a connection, and the kernel's own answers (the reset of a closed port), inherit the mark of the proxy's
# SYN, and so find their way back to the proxy instead of leaving for the client whose address the proxy borrowed.
_SYSCTLS: Final = {"net.ipv4.tcp_fwmark_accept": "1", "net.ipv4.fwmark_reflect": "1", "net.ipv6.fwmark_reflect": "1"}
_ABSENT: Final = "-"
_REMEMBERED: Final = re.compile("before " + " ".join(["(-|[0-9]{1,10})"] * len(_SYSCTLS)))
_DELIVERY: Final = netlink.LocalDelivery(mark=CONNECTION_MARK, mask=MARK_MASK, table=ROUTE_TABLE, priority=20000, protocol=0x6D)


def as_it_is() -> str:
    """The sysctls as they are now, to be remembered."""
    return " ".join(sysctl.read(name) or _ABSENT for name in _SYSCTLS)


def remembered(comment: str) -> str | None:
    """What a comment of a rule of ours remembers.

    Who is root in the namespace can write there what he likes, and it becomes part of a script that the agent runs: numbers only.
    """
    return comment.removeprefix("before ") if _REMEMBERED.fullmatch(comment) else None


def lay() -> None:
    """Makes what is missing."""
    for name, value in _SYSCTLS.items():
        if sysctl.read(name) not in {value, None}:
            sysctl.write(name, value)
    for family in _families():
        netlink.install(_DELIVERY, family)


def lift(before: str | None) -> None:
    """Takes it off; the sysctls as far as it is known how they were."""
    for family in _families_of_kernel():
        netlink.remove(_DELIVERY, family)
    for name, value in zip(_SYSCTLS, before.split(), strict=True) if before else ():
        if value not in {_ABSENT, sysctl.read(name)}:
            sysctl.write(name, value)


def missing() -> str:
    """What of it is not there, in words."""
    for name, value in _SYSCTLS.items():
        if (found := sysctl.read(name)) not in {value, None}:
            return f"{name} is {found}"
    for family in _families():
        if not netlink.installed(_DELIVERY, family):
            return f"the rule or the route of table {_DELIVERY.table} is missing ({family.name})"
    return ""


def _families() -> tuple[socket.AddressFamily, ...]:
    return (socket.AF_INET, socket.AF_INET6) if has_loopback6() else (socket.AF_INET,)


def _families_of_kernel() -> tuple[socket.AddressFamily, ...]:
    # Not what is in use now: IPv6 may have been switched off since it was laid.
    ipv6 = sysctl.read("net.ipv6.conf.lo.disable_ipv6") is not None
    return (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
