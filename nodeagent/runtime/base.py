"""What every runtime tells: the whole set of the workloads that run here, again whenever it changes."""

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux.namespaces import NamespaceKey


class LocalWorkload(Struct, frozen=True, order=True):
    """A workload of this node that is to be enrolled."""

    uid: str
    """As in its Workload resource: `<cluster>//Pod/<namespace>/<name>` for a pod."""
    name: str
    namespace: str
    service_account: str
    netns: str
    """Path of its network namespace."""
    network: NamespaceKey | None = None
    """What is at that path now, None if nothing is yet. A namespace that was replaced at the same path has another key."""
    terms: Terms = TOTAL
    """On which it is captured; they may change while it runs."""
    terms_problem: str = ""
    """Why what was said of its terms can't be followed, in words; it is captured whole then."""

    def is_same(self, other: "LocalWorkload | None") -> bool:
        """Whether it is the same pod under the same identity; on which terms it is captured makes no other of it."""
        return other is not None and replace(self, terms=other.terms, terms_problem=other.terms_problem) == other


class Runtime(Protocol):
    """A source of workloads. Level-triggered: what is yielded is the whole, so that nothing depends on having seen the one before."""

    @property
    def problem(self) -> str:
        """Why the source can't be read now, in words; empty if it can. The last good set stays in force meanwhile."""

    def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        """Yields the current set at once if there is one, then each that differs. Ends only by being closed."""
