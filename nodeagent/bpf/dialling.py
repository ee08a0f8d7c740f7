"""Which process opened a connection: the program that records it in the cgroup of a workload, and a typed view of its map.

Pinned as `pinned` says. A workload's records are its own map: no workload can take another's place in it.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from msgspec import Struct

from meshapi.workload import IPAddress
from nodeagent.bpf import libbpf
from nodeagent.bpf.libbpf import AttachType, Descriptor
from nodeagent.bpf.pinned import Pinned, Program
from nodeagent.linux.cgroups import Cgroup

OBJECT: Final = Path(__file__).parent / "objects/dialling.bpf.o"
DIALLED: Final = "dialled"
PROGRAM: Final = Program(OBJECT, "dialling", AttachType.CGROUP_SOCK_OPS, (DIALLED,))
KEY: Final = struct.Struct("=Q16s16sHHI")
DIALLER: Final = struct.Struct("=QQII16s32s")
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Connection(Struct, frozen=True):
    """As it leaves the application. `namespace`: the cookie of its network namespace."""

    namespace: int
    source: tuple[IPAddress, int]
    destination: tuple[IPAddress, int]


class Dialler(Struct, frozen=True):
    """The process that opened a connection, at that moment; a pid of the machine's first namespace."""

    pid: int
    at_ns: int
    """Of the monotonic clock."""
    started_ns: int
    """When the process started, of the clock that goes on while the machine sleeps: no two processes have pid and this in common."""
    command: str
    """As the process calls itself."""
    executable: str
    """The name of the file that it runs, without the directory, at most 31 bytes of it; empty where it runs none."""


class Dialled:
    """The records of one workload."""

    def __init__(self, table: Descriptor) -> None:
        self._table = table

    def find(self, connection: Connection) -> Dialler | None:
        """Who opened it; None if that is not known (any more)."""
        raw = libbpf.read(self._table, pack(connection), DIALLER.size)
        return None if raw is None else unpack(raw)

    def forget(self, connection: Connection) -> None:
        """Makes room: fine if it is not there."""
        libbpf.delete(self._table, pack(connection))


class Dialling:
    """The program in the cgroups of workloads. Every method blocks and raises KernelError."""

    def __init__(self, root: Path, program: Program = PROGRAM) -> None:
        """`root`: a directory on a bpffs, made if it is not there."""
        self._pinned = Pinned(root, program)

    def attach(self, cgroup: Cgroup) -> None:
        """Records from now on; a program of another version is replaced in place."""
        self._pinned.attach(cgroup)

    @contextmanager
    def open(self, cgroup: Cgroup) -> Iterator[Dialled | None]:
        """What is recorded there; None where nothing is attached."""
        with self._pinned.open(cgroup) as found:
            yield None if found is None or DIALLED not in found.maps else Dialled(found.maps[DIALLED])

    def detach(self, cgroup: Cgroup) -> None:
        """Ends it, and leaves nothing; fine if there is nothing."""
        self._pinned.detach(cgroup)

    def sweep(self) -> None:
        """Clears what is left of cgroups that are gone."""
        self._pinned.sweep()


def pack(connection: Connection) -> bytes:
    """`struct connection` of dialling.h."""
    (source, source_port), (destination, destination_port) = connection.source, connection.destination
    return KEY.pack(connection.namespace, _mapped(source), _mapped(destination), source_port, destination_port, 0)


def unpack(raw: bytes) -> Dialler:
    """`struct dialler` of dialling.h."""
    at_ns, started_ns, pid, _, command, executable = DIALLER.unpack(raw)
    return Dialler(pid, at_ns, started_ns, _text(command), _text(executable))


def _mapped(address: IPAddress) -> bytes:
    return address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")
