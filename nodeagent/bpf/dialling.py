"""Which process opened a connection: the program that records it in the cgroup of a workload, and a typed view of its map.

Pinned as `pinned` says. A workload's records are its own map: no workload can take another's place in it.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from msgspec import Struct

from nodeagent.bpf import libbpf
from nodeagent.bpf.libbpf import AttachType, Descriptor
from nodeagent.bpf.pinned import Pinned, Program
from nodeagent.linux.cgroups import Cgroup

OBJECT: Final = Path(__file__).parent / "objects/dialling.bpf.o"
DIALLED: Final = "dialled"
PROGRAM: Final = Program(OBJECT, "dialling", AttachType.CGROUP_SOCK_OPS, (DIALLED,))
KEY: Final = struct.Struct("=Q16s16sHHI")
AT: Final = struct.Struct("=Q")
DIALLER: Final = struct.Struct("=QII16s32s")
RECORD_BYTES: Final = AT.size + DIALLER.size
KEPT_ADDRESSES: Final = 4096
ONE_BY_ONE: Final = 8
"""What a record that is read alone takes longer than one of all."""
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Dialler(Struct, frozen=True):
    """The process that opened a connection, at that moment; a pid of the machine's first namespace."""

    pid: int
    started_ns: int
    """When the process started, of the clock that goes on while the machine sleeps: no two processes have pid and this in common."""
    command: str
    """As the process calls itself."""
    executable: str
    """The name of the file that it runs, without the directory, at most 31 bytes of it; empty where it runs none."""


class Dialled:
    """The records of one workload, as they are: see `key`, `split` and `unpack`."""

    def __init__(self, table: Descriptor) -> None:
        self._table = table
        self._size = 0
        """How many there were when all were read last."""

    def find(self, connections: Sequence[bytes]) -> list[bytes | None]:
        """Who opened each; None where that is not known (any more)."""
        if len(connections) * ONE_BY_ONE < self._size or len(connections) < ONE_BY_ONE:
            return [libbpf.read(self._table, one, RECORD_BYTES) for one in connections]
        found = dict(libbpf.entries(self._table, RECORD_BYTES))
        self._size = len(found)
        return [found.get(one) for one in connections]

    def forget(self, connections: Sequence[bytes]) -> None:
        """Makes room."""
        libbpf.delete_all(self._table, connections)


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


def key(namespace: int, source: str, destination: str) -> bytes:
    """`struct connection` of dialling.h: the cookie of a network namespace, addresses as `ip:port`; raises ValueError."""
    address, _, port = source.rpartition(":")
    to_address, _, to_port = destination.rpartition(":")
    try:
        return KEY.pack(namespace, _mapped(address), _mapped(to_address), int(port), int(to_port), 0)
    except struct.error as error:
        raise ValueError(f"{source} or {destination}: {error}") from error


def split(record: bytes) -> tuple[int, bytes]:
    """When the connection was opened (of the monotonic clock, in ns), and by whom, as `unpack` reads it: the same for each of a process."""
    return AT.unpack_from(record)[0], record[AT.size :]


def unpack(dialler: bytes) -> Dialler:
    """`struct dialler` of dialling.h, behind the time."""
    started_ns, pid, _, command, executable = DIALLER.unpack(dialler)
    return Dialler(pid, started_ns, _text(command), _text(executable))


@lru_cache(KEPT_ADDRESSES)
def _mapped(text: str) -> bytes:
    address = ip_address(text.strip("[]"))
    return address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")
