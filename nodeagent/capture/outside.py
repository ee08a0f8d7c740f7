"""Lets connections past the proxy to destinations outside the mesh, for as long as the answer `pass` is held and kept true.

In the kernel is, for each workload whose cgroup is known, what of its held answers is `pass`. It is written after the answer and taken
out before another. An agent that ends in order takes all out; what one that is killed leaves stays, as answers do that the proxy holds,
and is emptied by the next (`Outbound.forget_outside`) before it answers anything.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack

from nodeagent.bpf.libbpf import Descriptor
from nodeagent.bpf.outbound import Outbound, add_outside, remove_outside
from nodeagent.policy.addresses import plain
from nodeagent.resolve.resolve import RouteQuestion

log = logging.getLogger(__name__)


class OutsideDestinations:
    """Used from one thread; its calls are few and short. `network_of`: the inode of a workload's network namespace, None if it has none."""

    def __init__(self, outbound: Outbound, network_of: Callable[[str], int | None]) -> None:
        self._outbound = outbound
        self._network_of = network_of
        self._passing: dict[str, set[RouteQuestion]] = {}
        self._tables: dict[int, Descriptor | None] = {}
        self._changes = outbound.changes

    def add(self, question: RouteQuestion) -> None:
        """See `Outside`. What can't be written goes by the proxy."""
        self._passing.setdefault(question.workload, set()).add(question)
        try:
            if table := self._table(question.workload):
                add_outside(table, plain(question.destination), question.port)
        except OSError as error:
            log.warning("workload %s: %s port %d goes by the proxy: %s", question.workload, question.destination, question.port, error)

    def remove(self, question: RouteQuestion) -> None:
        """See `Outside`."""
        questions = self._passing.get(question.workload, set())
        questions.discard(question)
        if not questions:
            self._passing.pop(question.workload, None)
        try:
            if table := self._table(question.workload):
                remove_outside(table, plain(question.destination), question.port)
        except OSError as error:
            log.warning("workload %s: all goes by the proxy: %s", question.workload, error)
            self._close(question.workload)

    def reaches(self, workload: str) -> bool:
        """Whether the workload's connections can go past the proxy; raises KernelError."""
        return self._table(workload) is not None

    def _table(self, workload: str) -> Descriptor | None:
        """Opened once, until a program comes or goes."""
        if self._changes != self._outbound.changes:
            self._changes = self._outbound.changes
            with ExitStack() as closing:
                for table in self._tables.values():
                    closing.callback(table.close if table else lambda: None)
            self._tables = {}
        inode = self._network_of(workload)
        if inode is None:
            return None
        if inode not in self._tables:
            table = self._tables[inode] = self._outbound.outside_of(inode)
            if table is not None:
                for question in self._passing.get(workload, ()):
                    add_outside(table, plain(question.destination), question.port)
        return self._tables[inode]

    def _close(self, workload: str) -> None:
        """Rather none past the proxy than one too many: from here on the rules capture all."""
        inode = self._network_of(workload)
        if inode is not None:
            self._outbound.detach(inode)
