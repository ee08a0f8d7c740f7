"""Capture by nftables rules, policy routing and three sysctls in the workload's network namespace."""

import re
import socket
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

from meshapi.wire import CONNECTION_MARK, MARK_MASK, ROUTE_TABLE
from nodeagent.capture.base import CaptureState, Inspection
from nodeagent.capture.listeners import Listener
from nodeagent.capture.ruleset import FAMILY, TABLE, Mode, deletion, preparation, transaction
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux import netlink, nftables, sysctl
from nodeagent.linux.namespaces import Namespace, run_in_empty
from nodeagent.linux.sockets import has_loopback6

# The application's side of a connection, and the kernel's own answers (the reset of a closed port), inherit the mark of the proxy's
# SYN, and so find their way back to the proxy instead of leaving for the client whose address the proxy borrowed.
_SYSCTLS: Final = {"net.ipv4.tcp_fwmark_accept": "1", "net.ipv4.fwmark_reflect": "1", "net.ipv6.fwmark_reflect": "1"}
_ABSENT: Final = "-"
_REMEMBERED: Final = re.compile(" ".join(["(-|[0-9]{1,10})"] * len(_SYSCTLS)))
_DELIVERY: Final = netlink.LocalDelivery(mark=CONNECTION_MARK, mask=MARK_MASK, table=ROUTE_TABLE, priority=20000, protocol=0x6D)


Rules = Callable[[Mode, str], str]
"""The script that replaces the table; `ruleset.transaction` says what it is given."""


class NftablesCapture:
    """See `Capture`."""

    name = "nftables"

    def __init__(self, rules: Rules = transaction) -> None:
        self._rules = rules

    def prepare(self, namespace: Namespace) -> None:
        """Makes what the proxy needs to reach the application; captures nothing yet, and takes nothing off."""
        namespace.run(_prepare)

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:  # noqa: ARG002 - total, as yet
        namespace.run(_apply, self._rules)

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:  # noqa: ARG002
        namespace.run(_drain, self._rules)

    def remove(self, namespace: Namespace) -> None:
        namespace.run(_remove)

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:  # noqa: ARG002
        return namespace.run(_inspect, self._rules)


def _prepare() -> str:
    found = nftables.table(FAMILY, TABLE)
    before = _before(found)
    if before is None:
        before = " ".join(sysctl.read(name) or _ABSENT for name in _SYSCTLS)
        nftables.transact(preparation(before))
    for name, value in _SYSCTLS.items():
        if sysctl.read(name) not in {value, None}:
            sysctl.write(name, value)
    for family in _families():
        netlink.install(_DELIVERY, family)
    return before


def _apply(rules: Rules) -> None:
    before = _prepare()
    # Replacing the table resets its counters: not without need.
    if not _is(nftables.table(FAMILY, TABLE), rules, Mode.ENFORCE):
        nftables.transact(rules(Mode.ENFORCE, before))


def _drain(rules: Rules) -> None:
    found = nftables.table(FAMILY, TABLE)
    if (before := _before(found)) is not None and not _is(found, rules, Mode.DRAIN):
        nftables.transact(rules(Mode.DRAIN, before))


def _remove() -> None:
    found = nftables.table(FAMILY, TABLE)
    if found is None:
        return
    for family in _families_of_kernel():
        netlink.remove(_DELIVERY, family)
    before = _before(found)
    for name, value in zip(_SYSCTLS, before.split(), strict=True) if before else ():
        if value not in {_ABSENT, sysctl.read(name)}:
            sysctl.write(name, value)
    # Last: it holds what to put back.
    nftables.transact(deletion())


def _inspect(rules: Rules) -> Inspection:
    found = nftables.table(FAMILY, TABLE)
    if found is None:
        return Inspection(CaptureState.ABSENT)
    if _is(found, rules, Mode.DRAIN):
        return Inspection(CaptureState.DRAINING, found.counters)
    if not _is(found, rules, Mode.ENFORCE):
        return Inspection(CaptureState.BROKEN, found.counters, "the rules are incomplete, were changed, or are of another version")
    if missing := _missing():
        return Inspection(CaptureState.BROKEN, found.counters, missing)
    return Inspection(CaptureState.CAPTURED, found.counters)


def _is(found: nftables.Table | None, rules: Rules, mode: Mode) -> bool:
    before = _before(found)
    return found is not None and before is not None and found.content == _reference(rules(mode, before))


@cache
def _reference(script: str) -> bytes:
    """How this kernel and this library show our rules: asked once, in an empty namespace, so that we need not know their words."""
    return run_in_empty(_make, script)


def _make(script: str) -> bytes:
    nftables.transact(script)
    made = nftables.table(FAMILY, TABLE)
    return made.content if made else b""


def _before(found: nftables.Table | None) -> str | None:
    """The sysctls as they were before us, as our table remembers them.

    Who is root in the namespace can write there what he likes, and it becomes part of a script that the agent runs: numbers only.
    """
    for comment in found.comments if found else ():
        word, _, rest = comment.partition(" ")
        if word == "before" and _REMEMBERED.fullmatch(rest):
            return rest
    return None


def _missing() -> str:
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
    # Not what is in use now: IPv6 may have been switched off since `apply`.
    ipv6 = sysctl.read("net.ipv6.conf.lo.disable_ipv6") is not None
    return (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
