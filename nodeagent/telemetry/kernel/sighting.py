"""What the kernel knew of one connection."""

from msgspec import Struct


class Sighting(Struct, frozen=True):
    """What is not known is None. The process is the one that opened the connection; TCP's figures are of the tunnel that carries it."""

    pid: int | None = None
    command: str | None = None
    """As the process calls itself."""
    executable: str | None = None
    """The file that it runs: its path as the workload sees it, or, of a process that has ended, the name alone."""
    connect_s: float | None = None
    rtt_s: float | None = None
    retransmits: int | None = None


NOTHING = Sighting()
