"""One workload's table brought up to date: compiled, compared with what is in force, replaced if it differs. Blocks."""

import errno
from typing import Protocol

from msgspec import Struct

from meshapi.workload import WorkloadUID
from nodeagent.bpf.prefilter import Published, Table, encode
from nodeagent.bpf.ringbuffer import RingBuffer
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace
from nodeagent.policy.prefilter import Left, Prefilter, compile_prefilter
from nodeagent.runtime.base import LocalWorkload
from nodeagent.snapshot.tracked import TrackedView
from nodeagent.snapshot.view import View


class FirstPackets(Protocol):
    """A capture's part that refuses connections at their first packet; `bpf.steering` says what each does."""

    def refuse(self, namespace: Namespace, table: Table | None) -> None: ...

    def refusing(self, namespace: Namespace) -> Published | None: ...

    def take_denied(self, namespace: Namespace) -> dict[int, int]: ...

    def refusals(self, namespace: Namespace) -> RingBuffer: ...


class Renewed(Struct, frozen=True):
    """What is in force now. `depends_on`: what may change it. `denied`: connections refused since the last time, by number."""

    compiled: Prefilter | Left
    depends_on: frozenset[str]
    denied: dict[int, int]
    shed: int


OFF = Left("switched off (--prefilter off)")


def renew(kernel: FirstPackets, view: View | None, workload: LocalWorkload) -> Renewed:
    """Makes what is in force what the policies of `view` say; without one, nothing is refused. Raises KernelError."""
    tracked = None if view is None else TrackedView(view)
    compiled = OFF if tracked is None else compile_prefilter(tracked, WorkloadUID(workload.uid))
    table = encode(compiled) if isinstance(compiled, Prefilter) and compiled.denials else None
    with Namespace.open(workload.netns) as namespace:
        there = _present(kernel, namespace, workload)
        if there.digest != (None if table is None else table.digest):
            kernel.refuse(namespace, table)
        depends_on = frozenset() if tracked is None else frozenset(tracked.depends_on)
        return Renewed(compiled, depends_on, kernel.take_denied(namespace), there.shed)


def refusals(kernel: FirstPackets, workload: LocalWorkload) -> RingBuffer:
    """What is told of its refused connections; raises KernelError."""
    with Namespace.open(workload.netns) as namespace:
        _present(kernel, namespace, workload)
        return kernel.refusals(namespace)


def _present(kernel: FirstPackets, namespace: Namespace, workload: LocalWorkload) -> Published:
    there = kernel.refusing(namespace) if namespace.key == workload.network else None
    if there is None:
        raise KernelError(errno.ENOENT, f"steering in {workload.netns}", detail="it is not captured any more, or not yet")
    return there
