"""Which way to capture on this node: what was asked for, or the best that this kernel carries, found by trying it in an empty namespace."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.bpf.bpffs import ensure
from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Steering
from nodeagent.capture import iptables, looped, redirected, tproxied
from nodeagent.capture.base import Capture, Inspection, Way
from nodeagent.capture.ebpf import DIRECTORY, EbpfCapture
from nodeagent.capture.iptables import ChainsOf, IptablesCapture
from nodeagent.capture.listeners import Listener
from nodeagent.capture.nftables import NftablesCapture, NftablesTable, refusal
from nodeagent.capture.ruleset import Rules
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.capture.trial import prove
from nodeagent.linux import nftables
from nodeagent.linux.errors import KernelError
from nodeagent.linux.iptables import backends
from nodeagent.linux.namespaces import Namespace


@dataclass(frozen=True, slots=True)
class Choice:
    """`reason`: why this way, and of each better one why not, for an operator."""

    way: Capture
    reason: str
    outbound: Outbound | None = None
    """The programs that can let connections past the proxy, if this way has them."""


def ways() -> tuple[Way, ...]:
    """All that there are, the best first."""
    return tuple(_LADDER)


def choose(way: Way, pins: Path = DIRECTORY) -> Choice:
    """Raises KernelError if the way that was asked for can't be gone, or none can. Blocks, for some tens of milliseconds for each try."""
    if way is not Way.AUTO:
        return _chosen(_LADDER[way](pins), "asked for")
    failed: list[str] = []
    for rung, make in _LADDER.items():
        try:
            capture = make(pins)
        except OSError as error:
            failed.append(f"{rung} is not possible here: {error}")
        else:
            return _chosen(capture, "; ".join(failed) or "the best way, and this kernel carries it")
    raise OSError(f"no way to capture: {'; '.join(failed)}")


def why_no_questions(way: Capture) -> str:
    """Why questions to DNS can't be brought to the agent by this way, in words; empty if they can. Blocks."""
    terms = Terms(dns=True)
    inner = way.inner if isinstance(way, _After) else way
    return iptables.refusal(inner.backend, terms) if isinstance(inner, IptablesCapture) else refusal(_ASKING[way.name], terms)


def redirects(way: Capture) -> bool:
    """Whether questions to DNS come to the agent by redirection, which hides which resolver was meant."""
    return way.name in {Way.REDIRECT, Way.IPTABLES}


def _chosen(capture: Capture, reason: str) -> Choice:
    return Choice(capture, reason, capture.outbound if isinstance(capture, EbpfCapture) else None)


def _ebpf(pins: Path) -> Capture:
    ensure(pins.parent)
    steering, outbound = Steering(pins), Outbound(pins)
    steering.sweep()
    outbound.sweep()
    return _proven(EbpfCapture(steering, outbound, _by_iptables()))


def _nftables(pins: Path) -> Capture:
    return _after_ebpf(NftablesCapture(former=_by_iptables()), pins)


def _redirect(pins: Path) -> Capture:
    return _after_ebpf(NftablesCapture(redirected.transaction, Way.REDIRECT, _by_iptables()), pins)


def _iptables(pins: Path) -> Capture:
    there = backends()
    for backend in there:
        others = [ChainsOf(one) for one in there if one != backend]
        capture = IptablesCapture(backend, [*others, NftablesTable()] if nftables.is_there() else others)
        try:
            return _after_ebpf(capture, pins)
        except OSError:
            if backend == there[-1]:
                raise
    raise KernelError(errno.ENOENT, "iptables", "install the package iptables")


_ASKING: Final[dict[str, Rules]] = {Way.EBPF: looped.transaction, Way.NFTABLES: tproxied.transaction, Way.REDIRECT: redirected.transaction}
_LADDER: Final[dict[Way, Callable[[Path], Capture]]] = {
    Way.EBPF: _ebpf,
    Way.NFTABLES: _nftables,
    Way.REDIRECT: _redirect,
    Way.IPTABLES: _iptables,
}
"""The best first."""


def _by_iptables() -> list[ChainsOf]:
    return [ChainsOf(one) for one in backends()]


def _after_ebpf(capture: Capture, pins: Path) -> Capture:
    return _After(_proven(capture), Steering(pins), Outbound(pins))


def _proven(capture: Capture) -> Capture:
    prove(capture)
    return capture


class _After:
    """A capture that also takes off what an agent that captured by eBPF has left."""

    def __init__(self, capture: Capture, steering: Steering, outbound: Outbound) -> None:
        self.inner = capture
        self._steering = steering
        self._outbound = outbound
        self.name = capture.name

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:
        self.inner.apply(namespace, listeners, terms)
        self._detach(namespace)

    def open(self, namespace: Namespace, terms: Terms) -> None:
        self.inner.open(namespace, terms)

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:
        self.inner.drain(namespace, terms)
        self._detach(namespace)

    def remove(self, namespace: Namespace) -> None:
        self._detach(namespace)
        self.inner.remove(namespace)

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        return self.inner.inspect(namespace, terms)

    def _detach(self, namespace: Namespace) -> None:
        self._outbound.detach(namespace.id)
        self._steering.detach(namespace)
