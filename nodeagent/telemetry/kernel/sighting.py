"""What the kernel knew of one connection."""

from typing import NamedTuple

from nodeagent.bpf.mesh_sockets import Figures


class Process(NamedTuple):
    """The process that opened a connection; its pid is that of the machine's first namespace."""

    pid: int
    executable: str | None
    """The file that it runs: its path as the workload sees it, or, of a process that has ended, the name alone; None if it runs none."""
    command: str
    """As it calls itself."""


class Sighting(NamedTuple):
    """None: not known."""

    process: Process | None = None
    figures: Figures | None = None
    """Of the tunnel that carries it, or of its own connection to the other side."""


NOTHING = Sighting()
