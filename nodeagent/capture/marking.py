"""Marking what the processes of a workload's cgroup dial, so that its first packet goes to the proxy already, or past it.

Beside the rules (`looped`), which capture whatever is not marked: of a workload without a cgroup, or where this is not possible, all.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from nodeagent.bpf.outbound import Marked, Marks, Outbound, Outcome, Site
from nodeagent.capture.judgements import judgements
from nodeagent.capture.marks import CAPTURED_MARK, PAST_MARK
from nodeagent.capture.terms import Terms
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.nftables import Counter
from nodeagent.linux.sockets import netns_cookie

_MARKS = Marks(captured=CAPTURED_MARK, past=PAST_MARK)
_COUNTERS = {"marked": Outcome.CAPTURED, "excluded": Outcome.EXCLUDED, "outside": Outcome.OUTSIDE, "unmarked": Outcome.FAILED}
"""What is shown of the programs, beside the counters of the rules."""


class Found(Struct, frozen=True):
    """`problem`: it is not what it should be, and would be after `apply`. `remark`: it can't be, and the rules do it alone."""

    problem: str = ""
    remark: str = ""
    counters: dict[str, Counter] = {}


class Marking:
    """Every method blocks. What can't be done is remarked, and raises nothing: the rules capture all the same."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._failures: dict[int, str] = {}
        """By namespace, why the last attempt came to nothing."""

    def apply(self, namespace: Namespace, terms: Terms) -> None:
        """Marks from now on as the terms say."""
        self._failures.pop(namespace.id, None)
        wanted, _ = _wanted(terms)
        try:
            self._outbound.detach(namespace.id, keep=wanted)
            if wanted:
                self._attach(namespace, terms)
        except OSError as error:
            self._failures[namespace.id] = str(error)

    def _attach(self, namespace: Namespace, terms: Terms) -> None:
        judged = judgements(terms)
        with _cgroup(terms) as cgroup:
            if cgroup and judged:
                site = Site(cookie=namespace.run(netns_cookie), place=namespace.id)
                self._outbound.attach(cgroup, site, _MARKS, judged)

    def detach(self, namespace: Namespace) -> None:
        """Marks no more, and leaves nothing; raises KernelError."""
        self._failures.pop(namespace.id, None)
        self._outbound.detach(namespace.id)

    def inspect(self, namespace: Namespace, terms: Terms) -> Found:
        """Raises KernelError."""
        marked = self._outbound.inspect(namespace.id)
        counters = {name: Counter(marked.connections[outcome], 0) for name, outcome in _COUNTERS.items()} if marked else {}
        wanted, hindrance = _wanted(terms)
        hindrance = hindrance or self._failures.get(namespace.id, "")
        if hindrance:
            problem = "its connections are marked as they should not be" if marked else ""
            return Found(problem, f"its connections are captured by rules alone: {hindrance}", counters)
        return Found(_difference(marked, wanted, terms), counters=counters)


def _difference(marked: Marked | None, wanted: int, terms: Terms) -> str:
    if marked is None:
        return "the marking programs of its cgroup are not attached" if wanted else ""
    if marked.cgroup != wanted:
        return "the marking programs are attached to another cgroup"
    if not marked.current or marked.judgements != judgements(terms):
        return "the marking programs are of another version, or on other terms"
    return ""


def _wanted(terms: Terms) -> tuple[int, str]:
    """The cgroup that is to have the programs, 0 for none, and why there is none although one is named."""
    try:
        with _cgroup(terms) as cgroup:
            if cgroup and judgements(terms) is None:
                return 0, "its terms are more than there is room for"
            return cgroup.id if cgroup else 0, ""
    except OSError as error:
        return 0, str(error)


@contextmanager
def _cgroup(terms: Terms) -> Iterator[Cgroup | None]:
    """That of the terms; None if they name none."""
    if not terms.cgroup:
        yield None
        return
    with Cgroup.open(terms.cgroup) as opened:
        if opened.is_root:
            raise KernelError(errno.EINVAL, f"cgroup {terms.cgroup}", detail="is every process's")
        yield opened
