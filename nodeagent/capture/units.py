"""Capture of a process group in the node's own network namespace: outbound by the marks that its cgroup's programs set, inbound by port.

Beside a few rules for exactly these marks nothing of the node's own network is touched. The programs are all that captures here: they
mark every connection whatever else its socket has, steer what comes to the ports that the unit names, are pinned, and are looked after as
rules are.
"""

import errno
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from meshapi.wire import HBONE_PORT
from nodeagent.bpf.bpffs import ensure
from nodeagent.bpf.outbound import Judgements, Marked, Marks, Outbound, Outcome, Site
from nodeagent.bpf.units import Claim, Slot, Steered, UnitSteering
from nodeagent.capture.base import Capture, CaptureState, Inspection
from nodeagent.capture.judgements import judgements
from nodeagent.capture.listeners import Listener
from nodeagent.capture.ruleset import FAMILY
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.capture.unit_questions import RESOLVERS, asking_of
from nodeagent.capture.unit_rules import (
    PREFIX,
    Asking,
    Remembered,
    deletion,
    delivery_of,
    dns_port_of,
    mark_of,
    remembered,
    script,
    table_of,
)
from nodeagent.linux import cgroups, netlink, nftables, sysctl
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace, run_in_empty
from nodeagent.linux.nftables import Counter, Table
from nodeagent.linux.sockets import has_loopback6, netns_cookie
from nodeagent.linux.units import Unit
from nodeagent.ztunnel.protocol import ListenerKind

log = logging.getLogger(__name__)

_THREADS_OWN = "/proc/thread-self/ns/net"
INBOUND_REMARK = "only what it dials is in the mesh: it names no ports that are its own"
PLAINTEXT_REMARK = "it takes no tunnels: it has no address that is its alone"
_COUNTERS = {"marked": Outcome.CAPTURED, "excluded": Outcome.EXCLUDED, "outside": Outcome.OUTSIDE, "unmarked": Outcome.FAILED}


class UnitCapture:
    """As `Capture`, of units. Every method blocks, may be repeated, and raises KernelError."""

    name = "cgroup"

    def __init__(self, pins: Path, outbound: Outbound, resolvers: Path = RESOLVERS) -> None:
        """`pins`: where those of `outbound` are, on a bpffs that is mounted if it must be; `resolvers`: the host's resolv.conf."""
        self._resolvers = resolvers
        self._pins = pins
        self._outbound = outbound
        self._steering = UnitSteering(pins)

    def apply(self, unit: Unit, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:
        """Captures what the cgroup's processes dial, and what comes to its ports, from now on; what is open stays as it is."""
        if unit.cgroup.is_root:
            raise KernelError(errno.EINVAL, f"cgroup {unit.path}", detail="is every process's")
        former = unit.run(_remembered, unit.id)
        port = _port(listeners) or (former.port if former else None)
        if port is None:
            raise KernelError(errno.EINVAL, f"cgroup {unit.path}", detail="has no listener")
        ensure(self._pins.parent)
        # First what the marks need, then the marks; and last what only those of before needed.
        unit.run(_make, unit.id, port, asking_of(unit, terms, self._resolvers)[0])
        site = Site(cookie=unit.run(netns_cookie), place=unit.id)
        self._outbound.attach(unit.cgroup, site, _marks(port), _judged(terms))
        if former and former.port != port:
            unit.run(_take_back, former.port)
        self._claim(unit, listeners, terms)

    def _claim(self, unit: Unit, listeners: Sequence[Listener], terms: Terms) -> None:
        slots = {slot: one.socket for one in listeners if (slot := _slot_of(one)) is not None}
        if claims := claims_of(terms):
            self._steering.claim(unit.host, unit.id, claims, slots)
        else:
            self._steering.release(unit.host, unit.id)

    def drain(self, unit: Unit) -> None:
        """Lets new connections past the mesh, and keeps what the proxy's open ones need."""
        self._steering.release(unit.host, unit.id)
        self._outbound.detach(unit.id)
        unit.run(_drain, unit.id)

    def remove(self, unit: Unit) -> None:
        """Puts everything back as it was."""
        self._steering.release(unit.host, unit.id)
        self._outbound.detach(unit.id)
        unit.run(_remove, unit.id)

    def inspect(self, unit: Unit, terms: Terms = TOTAL) -> Inspection:
        """Looks at what is there, without changing it."""
        marked = self._outbound.inspect(unit.id)
        steered = self._steering.inspect(unit.host, unit.id)
        table = unit.run(nftables.table, FAMILY, table_of(unit.id))
        if table is None and marked is None and steered is None:
            return Inspection(CaptureState.ABSENT)
        known = remembered(table.comments) if table else None
        counters = dict(table.counters) if table else {}
        if marked is not None:
            counters |= {name: Counter(marked.connections[outcome], 0) for name, outcome in _COUNTERS.items()}
        if steered is not None:
            counters |= {name: Counter(count, 0) for name, count in steered.lookups._asdict().items()}
        if known and known.draining and marked is None and steered is None:
            return Inspection(CaptureState.DRAINING, counters)
        unclaimed = _unclaimed(steered, terms, ipv6=unit.run(has_loopback6))
        asking, unanswered = asking_of(unit, terms, self._resolvers)
        if problem := unit.run(_problem, unit.id, table, known, asking) or _difference(marked, unit, known, terms) or unclaimed:
            return Inspection(CaptureState.BROKEN, counters, problem)
        return Inspection(CaptureState.CAPTURED, counters, remark="; ".join(filter(None, (_remark(terms, steered), unanswered))))

    def sweep(self) -> None:
        """Takes off what is left of units that are gone, in the network namespace of this thread; what it can't, the next may."""
        try:
            self._outbound.sweep()
            self._steering.sweep()
            left = {name.removeprefix(PREFIX) for name in nftables.tables(FAMILY) if name.startswith(PREFIX)}
            ids = {int(one) for one in left if one.isdecimal()}
            for unit in ids - set(_living()) if ids else ():
                with Namespace.open(_THREADS_OWN) as host:
                    self._steering.release(host, unit)
                _remove(unit)
        except OSError as error:
            log.info("what is left of process groups that are gone stays: %s", error)


def claims_of(terms: Terms) -> frozenset[Claim]:
    """What of its host's is a unit's: its ports at its own addresses, and at all that are nobody's; HBONE's at its own addresses alone."""
    ports = set(terms.include_inbound_ports or ()) - {HBONE_PORT}
    own = {Claim(ip_address(address), port) for address in terms.addresses for port in (*ports, HBONE_PORT)}
    return frozenset(own | {Claim(None, port) for port in ports})


def _foreign(steered: Steered | None, terms: Terms) -> list[Claim]:
    """What is another unit's. Who has addresses of its own may share its ports at the others."""
    missing = claims_of(terms) - (steered.claims if steered else frozenset())
    return sorted((one for one in missing if one.address or not terms.addresses), key=str)


def _remark(terms: Terms, steered: Steered | None) -> str:
    said = []
    if not terms.include_inbound_ports:
        said.append(INBOUND_REMARK)
    elif not terms.addresses:
        said.append(PLAINTEXT_REMARK)
    if foreign := _foreign(steered, terms):
        said.append(f"another unit has {', '.join(map(_words, foreign))}")
    if terms.fail_open:
        said.append("it does not fail open")
    if not judgements(terms):
        said.append("its terms are more than there is room for, so that all is captured")
    return "; ".join(said)


class WithUnits:
    """A `Capture` that captures units by their own way, and all else by another. Units do not fail open, whatever their terms."""

    def __init__(self, others: Capture, units: UnitCapture) -> None:
        self._others = others
        self._units = units
        self.name = others.name

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:
        if isinstance(namespace, Unit):
            self._units.apply(namespace, listeners, terms)
        else:
            self._others.apply(namespace, listeners, terms)

    def open(self, namespace: Namespace, terms: Terms) -> None:
        if not isinstance(namespace, Unit):
            self._others.open(namespace, terms)

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:
        if isinstance(namespace, Unit):
            self._units.drain(namespace)
        else:
            self._others.drain(namespace, terms)

    def remove(self, namespace: Namespace) -> None:
        if isinstance(namespace, Unit):
            self._units.remove(namespace)
        else:
            self._others.remove(namespace)

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        return self._units.inspect(namespace, terms) if isinstance(namespace, Unit) else self._others.inspect(namespace, terms)


def _port(listeners: Sequence[Listener]) -> int | None:
    for listener in listeners:
        if listener.kind is ListenerKind.OUTBOUND:
            return int(listener.socket.getsockname()[1])
    return None


def _slot_of(listener: Listener) -> Slot | None:
    ipv6 = listener.socket.family == socket.AF_INET6
    match listener.kind:
        case ListenerKind.INBOUND:
            return Slot.INBOUND6 if ipv6 else Slot.INBOUND
        case ListenerKind.HBONE:
            return Slot.HBONE6 if ipv6 else Slot.HBONE
        case _:
            return None


def _marks(port: int) -> Marks:
    return Marks(captured=mark_of(port), past=0, alone=True)


def _judged(terms: Terms) -> Judgements:
    """Rather all than what there is room for."""
    return judgements(terms) or Judgements()


def _words(claim: Claim) -> str:
    return f"port {claim.port} of {claim.address or 'all addresses'}"


def _unclaimed(steered: Steered | None, terms: Terms, *, ipv6: bool) -> str:
    wanted = claims_of(terms)
    if steered is None:
        return "the steering program does not know its ports" if wanted else ""
    if not steered.current or steered.claims != wanted - steered.others:
        return "the steering program is of another version, or has other ports"
    needed = frozenset(Slot) if ipv6 else {Slot.INBOUND, Slot.HBONE}
    if missing := sorted(slot.name.lower() for slot in needed - steered.listeners):
        return f"no listener for {', '.join(missing)}: refused"
    return ""


def _remembered(unit: int) -> Remembered | None:
    found = nftables.table(FAMILY, table_of(unit))
    return remembered(found.comments) if found else None


def dns_port(unit: Unit) -> int:
    """Where its questions come to, as long as it is captured; raises KernelError if it is not. Blocks."""
    known = unit.run(_remembered, unit.id)
    if known is None or known.draining:
        raise KernelError(errno.ENOENT, f"cgroup {unit.path}", detail="is not captured")
    return dns_port_of(known.port)


def _make(unit: int, port: int, asking: Asking | None) -> None:
    for family in _families():
        netlink.install(delivery_of(port), family)
    found = nftables.table(FAMILY, table_of(unit))
    if found is None or found.content != _reference(unit, port, asking):
        nftables.transact(script(unit, port, asking=asking))


def _drain(unit: int) -> None:
    known = _remembered(unit)
    if known and not known.draining:
        nftables.transact(script(unit, known.port, draining=True))


def _remove(unit: int) -> None:
    found = nftables.table(FAMILY, table_of(unit))
    if found is None:
        return
    if known := remembered(found.comments):
        _take_back(known.port)
    # Last: it says what to take back, and nothing leaves with the mark as long as it is there.
    nftables.transact(deletion(unit))


def _take_back(port: int) -> None:
    # Of all families that the kernel has: IPv6 may have been switched off since.
    ipv6 = sysctl.read("net.ipv6.conf.lo.disable_ipv6") is not None
    for family in (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,):
        netlink.remove(delivery_of(port), family)


def _problem(unit: int, table: Table | None, known: Remembered | None, asking: Asking | None) -> str:
    if table is None or known is None or table.content != _reference(unit, known.port, asking):
        return "the rules are incomplete, were changed, or are of another version"
    for family in _families():
        if not netlink.installed(delivery_of(known.port), family):
            return f"the rule or the route for its mark is missing ({family.name})"
    return ""


def _difference(marked: Marked | None, unit: Unit, known: Remembered | None, terms: Terms) -> str:
    if marked is None or marked.cgroup != unit.id:
        return "the marking programs of its cgroup are not attached"
    if not marked.current or known is None or (marked.marks, marked.judgements) != (_marks(known.port), _judged(terms)):
        return "the marking programs are of another version, or on other terms"
    return ""


@cache
def _reference(unit: int, port: int, asking: Asking | None) -> bytes:
    """How this kernel and this library show our rules."""

    def make() -> bytes:
        nftables.transact(script(unit, port, asking=asking))
        made = nftables.table(FAMILY, table_of(unit))
        return made.content if made else b""

    return run_in_empty(make)


def _families() -> tuple[socket.AddressFamily, ...]:
    return (socket.AF_INET, socket.AF_INET6) if has_loopback6() else (socket.AF_INET,)


def _living() -> Iterator[int]:
    """The ids of all cgroups."""
    for directory, _, _ in os.walk(cgroups.root()):
        if (found := cgroups.id_at(Path(directory))) is not None:
            yield found
