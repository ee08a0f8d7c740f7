"""What every runtime tells: the whole set of the workloads that run here, again whenever it changes."""

from collections.abc import AsyncIterator
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux.namespaces import Namespace, NamespaceKey, key_at
from nodeagent.linux.process import started_ticks
from nodeagent.linux.units import Unit

HOST_NETWORK: Final = "/proc/self/ns/net"
"""The path of the node's own network namespace, for a workload that is the node."""


class LocalWorkload(Struct, frozen=True, order=True):
    """A workload of this node that is to be enrolled."""

    uid: str
    """As in its Workload resource: `<cluster>//Pod/<namespace>/<name>` for a pod."""
    name: str
    namespace: str
    service_account: str
    netns: str
    """Path of its network namespace; of a process group that of its cgroup's directory."""
    network: NamespaceKey | None = None
    """What is at that path now, None if nothing is yet. A namespace that was replaced at the same path has another key."""
    terms: Terms = TOTAL
    """On which it is captured; they may change while it runs."""
    terms_problem: str = ""
    """Why what was said of its terms can't be followed, in words; it is captured whole then."""
    probe_ports: tuple[int, ...] = ()
    """The ports that it declares for probes; they may change while it runs."""
    instance: str = ""
    """What tells it from another of its name: a pod's uid, a container's id."""
    started_ticks: int = 0
    """If `netns` is of a process: when that began (ticks since boot), which tells it from another of its pid."""
    process_group: bool = False
    """It is a cgroup of the node's own network: that of its terms."""

    @property
    def whole_host(self) -> bool:
        """It is the node itself: all that has no other namespace."""
        return self.terms.whole_host

    def is_same(self, other: "LocalWorkload | None") -> bool:
        """Whether it is the same pod under the same identity; neither its terms nor the path to its namespace make another of it."""
        return other is not None and replace(self, **{name: getattr(other, name) for name in _PASSING}) == other

    @property
    def present(self) -> bool:
        """Whether its path leads to its namespace now, as far as can be said without having held it open."""
        return key_at(self.netns) == self.network is not None and (not self.started_ticks or self._same_process())

    def open(self) -> Namespace:
        """Opens what its path leads to now, the caller's to close; raises KernelError."""
        return Unit.open(self.netns) if self.process_group else Namespace.open(self.netns)

    def _same_process(self) -> bool:
        _, _, pid, *_ = self.netns.split("/")
        return started_ticks(int(pid)) == self.started_ticks


_PASSING = ("terms", "terms_problem", "probe_ports", "netns", "started_ticks")


class Runtime(Protocol):
    """A source of workloads. Level-triggered: what is yielded is the whole, so that nothing depends on having seen the one before."""

    @property
    def problem(self) -> str:
        """Why the source can't be read now, in words; empty if it can. The last good set stays in force meanwhile."""

    def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        """Yields the current set at once if there is one, then each that differs. Ends only by being closed."""
