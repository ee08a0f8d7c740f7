"""Capture of the node's own network, as one workload: as a pod's, but for the agent's connections, which go past the proxy.

An agent that were captured would ask itself, by way of its proxy, how to reach the controller that it must ask. The programs of its
cgroup mark what it dials (not what the proxy does, whose sockets have a mark already); they stay when it ends, for the next one in that
cgroup. One in another cgroup attaches them there before it dials.
"""

import errno
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nodeagent.bpf.outbound import Judgements, Marked, Marks, Outbound, Site
from nodeagent.bpf.sparing import spare_open
from nodeagent.capture.base import Capture, CaptureState, Inspection
from nodeagent.capture.listeners import Listener
from nodeagent.capture.marks import PAST_MARK
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux.cgroups import Cgroup, id_at
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace, NamespaceKey
from nodeagent.linux.sockets import netns_cookie

log = logging.getLogger(__name__)

_MARKS: Final = Marks(captured=0, past=PAST_MARK, alone=True)
_ALL_PAST: Final = Judgements(rest_captured=False)


class AgentsOwn:
    """The connections of one cgroup's processes, the agent's. Every method blocks and raises KernelError."""

    def __init__(self, outbound: Outbound, cgroup: str) -> None:
        """`cgroup`: its directory; empty where there are none of version 2."""
        self._outbound = outbound
        self._cgroup = cgroup

    def exempt(self, namespace: Namespace) -> None:
        """Lets them past the proxy from now on."""
        with self._open() as cgroup:
            self._outbound.attach(cgroup, Site(namespace.run(netns_cookie), cgroup.id), _MARKS, _ALL_PAST)

    def end(self) -> None:
        """Exempts them no more; fine if it did not."""
        if self._cgroup and (cgroup := id_at(Path(self._cgroup))) is not None:
            self._outbound.detach(cgroup)

    def problem(self) -> str:
        """Why they are not exempt, in words."""
        with self._open() as cgroup:
            found = self._outbound.inspect(cgroup.id)
            return "" if found and _is_right(found, cgroup) else "the agent's own connections are not told apart"

    def _open(self) -> Cgroup:
        if not self._cgroup:
            raise KernelError(errno.ENOENT, "the agent's cgroup", "cgroup version 2 must be mounted")
        opened = Cgroup.open("", Path(self._cgroup))
        if opened.is_root:
            opened.close()
            detail = "is every process's, so that the host's connections can't be told from the agent's"
            raise KernelError(errno.EINVAL, "the agent's cgroup", "start it as a service, with a cgroup of its own", detail=detail)
        return opened


class WithHost:
    """A `Capture` that also captures the node's own network, where it can."""

    def __init__(self, others: Capture, own: AgentsOwn | None, host: NamespaceKey) -> None:
        """`own`: None where the way to capture is none for a host."""
        self._others = others
        self._own = own
        self._host = host
        self.name = others.name

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:
        if terms.whole_host:
            self._exempting(namespace).exempt(namespace)
            self._spare(namespace, terms)
        self._others.apply(namespace, listeners, terms)

    def open(self, namespace: Namespace, terms: Terms) -> None:
        self._others.open(namespace, terms)

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:
        self._others.drain(namespace, terms)

    def remove(self, namespace: Namespace) -> None:
        self._others.remove(namespace)
        if self._own and namespace.key == self._host:
            self._own.end()

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        found = self._others.inspect(namespace, terms)
        if not terms.whole_host or found.state not in {CaptureState.CAPTURED, CaptureState.OPEN}:
            return found
        problem = self._exempting(namespace).problem()
        return Inspection(CaptureState.BROKEN, found.counters, problem, found.remark) if problem else found

    def _spare(self, namespace: Namespace, terms: Terms) -> None:
        """Before the rules are there, and only then: what is open on ports that are left alone goes on, an operator's session say."""
        if self._others.inspect(namespace, terms).state not in {CaptureState.ABSENT, CaptureState.DRAINING}:
            return
        try:
            spare_open(namespace, terms.exclude_inbound_ports)
        except OSError as error:
            log.warning("connections of ports that are left alone begin anew: %s", error)

    def _exempting(self, namespace: Namespace) -> AgentsOwn:
        if self._own is None:
            raise KernelError(errno.ENOTSUP, namespace.path, detail=f"a whole host is captured by ebpf, not by {self.name}")
        return self._own


def _is_right(found: Marked, cgroup: Cgroup) -> bool:
    return found.current and found.cgroup == cgroup.id and (found.marks, found.judgements) == (_MARKS, _ALL_PAST)
