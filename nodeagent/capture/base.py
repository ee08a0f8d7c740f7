"""What every way of capturing a workload offers, and what it reports."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from nodeagent.capture.listeners import Listener
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.nftables import Counter


class Way(StrEnum):
    """What an operator can ask for."""

    AUTO = "auto"
    EBPF = "ebpf"
    NFTABLES = "nftables"
    REDIRECT = "redirect"
    IPTABLES = "iptables"


class CaptureState(StrEnum):
    ABSENT = "absent"
    """Nothing of ours is there."""
    CAPTURED = "captured"
    OPEN = "open"
    """Captured, but the proxy is noted as away: new connections go past it, as the terms have it."""
    DRAINING = "draining"
    """New connections go past the mesh; those that the proxy carries still work."""
    BROKEN = "broken"
    """Something of ours is there, but not what this version would make: apply it again."""


OPENLY: Final = ("open", "open-out")
"""The counters of handshakes that passed by the absent proxy, in and out."""


class Inspection(Struct, frozen=True):
    """What is in a namespace now. `counters` by the name of the rule, in the rules' order."""

    state: CaptureState
    counters: dict[str, Counter] = {}
    problem: str = ""
    """What is missing or different, in words, when `state` is broken."""
    remark: str = ""
    """What is captured in a lesser way than was asked for, and why."""


class Former(Protocol):
    """What a capture that goes another way may have left in a namespace. Its groundwork is the next one's."""

    def memory(self, namespace: Namespace) -> str | None:
        """What its rules remember (`groundwork.as_it_is`); None if there are none. Blocks; raises KernelError."""

    def clear(self, namespace: Namespace) -> None:
        """Takes its rules off, and nothing else; fine if there are none. Blocks; raises KernelError."""


class Capture(Protocol):
    """Programs one network namespace. Every method blocks, may be repeated, and raises KernelError.

    What is applied holds without the agent and without the proxy, and then fails closed.
    """

    @property
    def name(self) -> str:
        """For status: which way this is."""

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:
        """Captures: from when this returns no connection of it leaves or enters past the proxy but those that `terms` leave alone.

        `listeners` are the proxy's in this namespace; those that are given before stay in force where none are given.
        """

    def open(self, namespace: Namespace, terms: Terms) -> None:
        """The proxy is away: lets new connections past it until `apply`, if `terms` fail open; else changes nothing. After `apply` only."""

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:
        """Lets new connections past the mesh, and keeps what the proxy's open ones need. Where nothing is applied, does nothing."""

    def remove(self, namespace: Namespace) -> None:
        """Puts everything back as it was before `apply`."""

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        """Looks at what is there, without changing it: whether it is what `terms` ask for."""
