"""TCP's figures of the proxy's connections, as the kernel counts them for the cgroup that agent and proxy run in."""

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Final

from nodeagent.bpf import mesh_sockets
from nodeagent.bpf.mesh_sockets import Figures, Flow, FlowKey, MeshSockets
from nodeagent.linux import cgroups
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.errors import KernelError
from nodeagent.telemetry.kernel.tcp_metrics import minus

SLICE: Final = "nodemesh.slice"
IDLE_LOOKS: Final = 120
"""After so many looks at which a flow had not changed its entry is given back."""


class Tunnels:
    """All but `figures` blocks; raises KernelError."""

    def __init__(self, pins: Path) -> None:
        self._pins = pins
        self._opened = ExitStack()
        self._sockets: MeshSockets | None = None
        self._last: dict[bytes, tuple[bytes, int]] = {}
        """What was read of each flow, and at how many looks since it was the same."""

    def open(self) -> None:
        """Attaches the programs, or takes over those of a former agent; what those counted before is not counted again."""
        with ExitStack() as undo:
            cgroup = undo.enter_context(_own())
            mesh_sockets.sweep(self._pins)
            self._sockets = undo.enter_context(mesh_sockets.attached(self._pins, cgroup))
            self._opened = undo.pop_all()
        self._last = {key: (raw, 0) for key, raw in self._sockets.flows()}

    def count_for(self, namespaces: Collection[int]) -> None:
        """Counts for the workloads in namespaces with these cookies."""
        if self._sockets is not None:
            self._sockets.set_workloads(namespaces)

    def grown(self) -> Iterator[tuple[FlowKey, Flow]]:
        """What came to each flow since the last time, open connections included."""
        if self._sockets is None:
            return
        self._sockets.sample()
        last: dict[bytes, tuple[bytes, int]] = {}
        for key, raw in self._sockets.flows():
            before, looks = self._last.get(key, (bytes(len(raw)), 0))
            if raw != before:
                last[key] = (raw, 0)
                yield mesh_sockets.flow_key(key), minus(mesh_sockets.flow(raw), mesh_sockets.flow(before))
            elif looks < IDLE_LOOKS or not self._sockets.forget(key):
                last[key] = (raw, looks + 1)
        self._last = last

    def figures(self, cookie: int) -> Figures | None:
        """Of one connection, by its socket's cookie."""
        return None if self._sockets is None else self._sockets.figures(cookie)

    def close(self) -> None:
        """The programs go on; `open` takes them over."""
        self._sockets = None
        self._opened.close()

    def detach(self) -> None:
        """Ends the programs; fine if none was attached. What is open is still to be closed."""
        with _own() as cgroup:
            mesh_sockets.detach(self._pins, cgroup)


def _own() -> Cgroup:
    """The cgroup of the agent, and so of the listeners that it makes and of the proxy that it starts.

    As units of systemd they have one each, in a slice that they share with nobody.
    """
    path = PurePosixPath(cgroups.of_process(os.getpid()))
    cgroup = Cgroup.open(str(path.parent if path.parent.name == SLICE else path))
    if cgroup.is_root:
        # So it seems in a container, too, that has a namespace of cgroups and the host's mount of them.
        cgroup.close()
        cgroup = Cgroup.open(cgroups.holding(os.getpid(), cgroups.root()))
    if cgroup.is_root:
        cgroup.close()
        hint = "start the agent in a cgroup of its own, as a service or a container is"
        raise KernelError(errno.EPERM, "cgroup /", hint, detail="the agent is in the root cgroup, with the whole machine")
    return cgroup
