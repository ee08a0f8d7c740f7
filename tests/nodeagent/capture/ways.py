"""The ways to capture, and marks for tests of some of them; the others run over each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Steering
from nodeagent.capture import redirected
from nodeagent.capture.base import Capture, Inspection
from nodeagent.capture.ebpf import EbpfCapture
from nodeagent.capture.iptables import IptablesCapture
from nodeagent.capture.listeners import Listener
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux.iptables import backends
from nodeagent.linux.namespaces import Namespace
from tests.nodeagent import cgroups

only_ebpf = pytest.mark.parametrize("capture", ["ebpf", "ebpf-cgroup"], indirect=True)
by_either_backend = pytest.mark.parametrize(
    "capture", ["ebpf", "ebpf-cgroup", "nftables", "redirect", "iptables-nft", "iptables-legacy"], indirect=True
)
"""iptables by its older backend, too: the rules are the same, and so is what they do."""
only_rules = pytest.mark.parametrize("capture", ["nftables", "redirect"], indirect=True)
only_unredirected = pytest.mark.parametrize("capture", ["ebpf", "ebpf-cgroup", "nftables"], indirect=True)
"""What comes in keeps its addresses."""


def unheard(capture: Capture) -> str:
    """What counts a handshake for which the proxy has no listener."""
    return "closed" if capture.name in {"ebpf", "nftables"} else "inbound"


def forged(capture: Capture) -> tuple[str, ...]:
    """What counts a segment that belongs to no connection from outside."""
    return ("reset",) if capture.name in {"ebpf", "nftables"} else ("reset", "invalid-in")


class InCgroup(EbpfCapture):
    """Of a workload whose cgroup is known, whatever else its terms are."""

    cgroup = ""

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:
        super().apply(namespace, listeners, replace(terms, cgroup=self.cgroup))

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        return super().inspect(namespace, replace(terms, cgroup=self.cgroup))


def harms(capture: Capture) -> list[tuple[str, ...]]:
    """Commands that change its rules in the pod."""
    if not isinstance(capture, IptablesCapture):
        return [
            ("nft", "flush", "chain", "inet", "nodemesh", "inbound"),
            ("nft", "add", "rule", "inet", "nodemesh", "outbound", "accept"),
        ]
    program, program6 = (f"{word}-{capture.backend.name}" for word in ("iptables", "ip6tables"))
    return [
        (program, "-t", "nat", "-F", "NODEMESH_INBOUND"),
        (program6, "-t", "mangle", "-A", "NODEMESH_LEFT", "-j", "ACCEPT"),
        (program, "-I", "INPUT", "-j", "ACCEPT"),
        (program6, "-t", "mangle", "-F", "POSTROUTING"),
    ]


@contextmanager
def made(way: str, pins: Path) -> Iterator[Capture]:
    """A capture of this name."""
    match way:
        case "ebpf-cgroup":
            capture = InCgroup(Steering(pins), Outbound(pins))
            # The test's own sockets are those of pod and client: which is whose, the programs must tell by the namespace.
            with cgroups.entered() as capture.cgroup:
                yield capture
        case "ebpf":
            yield EbpfCapture(Steering(pins), Outbound(pins))
        case "nftables":
            yield NftablesCapture()
        case "redirect":
            yield NftablesCapture(redirected.transaction, "redirect")
        case "iptables-nft" | "iptables-legacy":
            [backend] = [one for one in backends() if one.name == way.removeprefix("iptables-")]
            yield IptablesCapture(backend)
        case _:
            raise ValueError(way)
