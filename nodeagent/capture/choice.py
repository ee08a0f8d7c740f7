"""Which way to capture on this node: what was asked for, or the best that this kernel carries, found by trying it in an empty namespace."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nodeagent.bpf.bpffs import ensure
from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Steering
from nodeagent.capture.base import Capture, CaptureState, Inspection, Way
from nodeagent.capture.ebpf import DIRECTORY, EbpfCapture
from nodeagent.capture.listeners import Listener, open_listeners
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux import netlink
from nodeagent.linux.namespaces import Namespace, run_in_empty


@dataclass(frozen=True, slots=True)
class Choice:
    """`reason`: why this way and no better one, for an operator."""

    way: Capture
    reason: str
    outbound: Outbound | None = None
    """The programs that can let connections past the proxy, if this way has them."""


def choose(way: Way, pins: Path = DIRECTORY) -> Choice:
    """Raises KernelError if the way that was asked for can't be gone. Blocks, for some tens of milliseconds."""
    steering, outbound = Steering(pins), Outbound(pins)
    match way:
        case Way.NFTABLES:
            return Choice(_After(NftablesCapture(), steering, outbound), "asked for")
        case Way.EBPF:
            return Choice(_proven(steering, outbound, pins), "asked for", outbound)
        case Way.AUTO:
            try:
                return Choice(_proven(steering, outbound, pins), "the best way, and this kernel carries it", outbound)
            except OSError as error:
                return Choice(_After(NftablesCapture(), steering, outbound), f"ebpf is not possible here: {error}")


def _proven(steering: Steering, outbound: Outbound, pins: Path) -> EbpfCapture:
    ensure(pins.parent)
    steering.sweep()
    outbound.sweep()
    capture = EbpfCapture(steering, outbound)
    run_in_empty(_try, capture)
    return capture


def _try(capture: Capture) -> None:
    netlink.raise_loopback()
    with ExitStack() as undo:
        namespace = undo.enter_context(Namespace.open("/proc/thread-self/ns/net"))
        listeners = open_listeners(namespace)
        for listener in listeners:
            undo.enter_context(listener.socket)
        undo.callback(capture.remove, namespace)
        capture.apply(namespace, listeners)
        found = capture.inspect(namespace)
        if found.state is not CaptureState.CAPTURED:
            raise OSError(f"tried in an empty namespace, it was {found.state}: {found.problem}")


class _After:
    """A capture that also takes off what an agent that captured by eBPF has left."""

    def __init__(self, capture: Capture, steering: Steering, outbound: Outbound) -> None:
        self._capture = capture
        self._steering = steering
        self._outbound = outbound
        self.name = capture.name

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:
        self._capture.apply(namespace, listeners, terms)
        self._detach(namespace)

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:
        self._capture.drain(namespace, terms)
        self._detach(namespace)

    def remove(self, namespace: Namespace) -> None:
        self._detach(namespace)
        self._capture.remove(namespace)

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        return self._capture.inspect(namespace, terms)

    def _detach(self, namespace: Namespace) -> None:
        self._outbound.detach(namespace.id)
        self._steering.detach(namespace)
