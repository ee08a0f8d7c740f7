"""Capture by eBPF: `sk_lookup` steers what comes in, marked packets that loop bring what goes out; no conntrack, no translation.

The rules that remain (`looped`) and their state are those of `NftablesCapture`: an agent that captures the other way replaces them in
one transaction.
"""

import socket
from collections.abc import Sequence

from nodeagent.bpf import bpffs
from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Reason, Slot, Steered, Steering, encode
from nodeagent.capture import looped
from nodeagent.capture.base import CaptureState, Former, Inspection
from nodeagent.capture.listeners import Listener
from nodeagent.capture.marking import Marking
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.nftables import Counter
from nodeagent.linux.sockets import has_loopback6
from nodeagent.ztunnel.protocol import ListenerKind

DIRECTORY = bpffs.MOUNT_POINT / "nodemesh"

_COUNTERS = {
    "inbound": Reason.INBOUND,
    "hbone": Reason.HBONE,
    "probe": Reason.PROBE,
    "closed": Reason.NO_LISTENER,
    "unassigned": Reason.NOT_ASSIGNED,
    "denied": Reason.DENIED,
    "left alone": Reason.LEFT_ALONE,
    "opened": Reason.OPEN,
}
"""What is shown of the steering program, beside the counters of the rules."""


class EbpfCapture:
    """See `Capture`."""

    name = "ebpf"

    def __init__(self, steering: Steering, outbound: Outbound, former: Sequence[Former] = ()) -> None:
        """`former`: other ways but those by nftables, whose rules are replaced where they are found."""
        self._steering = steering
        self.outbound = outbound
        self.first_packets = steering
        """Refuses connections at their first packet."""
        self._marking = Marking(outbound)
        self._table = NftablesCapture(looped.transaction, former=former)

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:
        # In this order there is no moment in which neither this nor a former capture holds what comes in.
        self._table.prepare(namespace)
        self._steering.attach(
            namespace, {slot: listener.socket for listener in listeners if (slot := slot_of(listener)) is not None}, terms
        )
        self._table.apply(namespace, listeners, terms)
        self._marking.apply(namespace, terms)

    def open(self, namespace: Namespace, terms: Terms) -> None:
        if terms.fail_open:
            self._table.open(namespace, terms)
            self._steering.attach(namespace, {}, terms, away=True)

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:
        self._marking.detach(namespace)
        self._table.drain(namespace, terms)
        self._steering.detach(namespace)

    def remove(self, namespace: Namespace) -> None:
        self._marking.detach(namespace)
        self._steering.detach(namespace)
        self._table.remove(namespace)

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        table = self._table.inspect(namespace, terms)
        steered = self._steering.inspect(namespace)
        marking = self._marking.inspect(namespace, terms)
        counters = table.counters | _counters(steered) | marking.counters
        if table.state in {CaptureState.CAPTURED, CaptureState.OPEN}:
            problem = _problem(steered, terms, ipv6=namespace.run(has_loopback6)) or marking.problem
            is_open = table.state is CaptureState.OPEN or (steered and steered.terms == encode(terms, away=True))
            state = CaptureState.BROKEN if problem else CaptureState.OPEN if is_open else CaptureState.CAPTURED
            return Inspection(state, counters, problem, marking.remark)
        if table.state in {CaptureState.ABSENT, CaptureState.DRAINING} and steered is not None:
            return Inspection(CaptureState.BROKEN, counters, "the steering program is attached, but its rules are not in force")
        return Inspection(table.state, counters, table.problem)


def slot_of(listener: Listener) -> Slot | None:
    """Where the steering program finds it; None for one that it does not steer to."""
    match listener.kind:
        case ListenerKind.INBOUND:
            return Slot.INBOUND6 if listener.socket.family == socket.AF_INET6 else Slot.INBOUND
        case ListenerKind.HBONE:
            return Slot.HBONE
        case ListenerKind.PROBE:
            return Slot.PROBE6 if listener.socket.family == socket.AF_INET6 else Slot.PROBE
        case ListenerKind.OUTBOUND:
            return None


def _problem(steered: Steered | None, terms: Terms, *, ipv6: bool) -> str:
    if steered is None:
        return "the steering program is not attached"
    if not steered.current:
        return "the steering program is of another version"
    if steered.terms not in {encode(terms), encode(terms, away=True)}:
        return "the steering program has other terms"
    needed = frozenset(Slot) if ipv6 else frozenset(Slot) - {Slot.INBOUND6, Slot.PROBE6}
    if missing := sorted(slot.name.lower() for slot in needed - steered.listeners):
        return f"no listener for {', '.join(missing)}: refused"
    return ""


def _counters(steered: Steered | None) -> dict[str, Counter]:
    # A lookup is of one packet; what it carried was not counted.
    return {name: Counter(steered.lookups[reason], 0) for name, reason in _COUNTERS.items()} if steered else {}
