"""The program that records the kubelet's own connections in the node's table of probes, attached to the kubelet's cgroup.

The table is shared: steering programs read it, whether anybody writes there or not. It goes with the last program that has it.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Final

from msgspec import Struct

from nodeagent.bpf import libbpf
from nodeagent.bpf.libbpf import AttachType, Descriptor
from nodeagent.bpf.pinned import Maps, Pinned, Place, Program, shared_map
from nodeagent.linux.cgroups import Cgroup

OBJECT: Final = Path(__file__).parent / "objects/record_kubelet.bpf.o"
PROGRAM: Final = "record_kubelet"
PROBES: Final = "probes"
RECORDINGS: Final = "recordings"
_THAT_HAVE_IT: Final = (f"{PROGRAM}-", "steer_inbound-")
_NUMBER_BYTES: Final = 8


class Recording(IntEnum):
    """What became of a connection of the kubelet: `enum recording` of recording.h."""

    BEGAN = 0
    ENDED = 1
    OTHER_FAMILY = 2
    UNWATCHED = 3
    NO_ROOM = 4


class Recorded(Struct, frozen=True):
    """What runs on a cgroup. `connections` since it was attached."""

    current: bool
    """It is this version's program, and writes to the table that steering programs are given."""
    connections: dict[Recording, int]


def program_of(path: Path = OBJECT) -> Program:
    """The program in an object file."""
    return Program(path, PROGRAM, AttachType.CGROUP_SOCK_OPS, (RECORDINGS,), (PROBES,))


class KubeletRecorder:
    """See the module. Every method blocks and raises KernelError."""

    def __init__(self, root: Path, program: Path = OBJECT) -> None:
        """`root`: the directory on a bpffs that `Steering` has, too."""
        self._root = root
        self._pinned = Pinned(root, program_of(program))

    def attach(self, cgroup: Cgroup) -> None:
        """Records what the processes of the cgroup, and of those below it, connect to from now on."""
        with probes(self._root) as table:
            self._pinned.attach(cgroup, shared={PROBES: table})

    def detach(self, cgroup: Place) -> None:
        """Ends it; fine if there is nothing, or if the cgroup is gone."""
        self._pinned.detach(cgroup)
        drop_probes(self._root)

    def inspect(self, cgroup: Cgroup) -> Recorded | None:
        """What runs there; None if nothing does."""
        with known_probes(self._root) as shared, self._pinned.open(cgroup, shared=shared) as found:
            if found is None:
                return None
            recordings = found.maps.get(RECORDINGS)
            return Recorded(
                current=found.current and bool(shared),
                connections={kind: _total(recordings, kind) if recordings else 0 for kind in Recording},
            )

    def sweep(self) -> None:
        """Clears what is left of cgroups that are gone."""
        self._pinned.sweep()
        drop_probes(self._root)


def probes(root: Path) -> Descriptor:
    """The node's table, made if it is not there; the caller's to close."""
    return shared_map(root, program_of(), PROBES)


@contextmanager
def known_probes(root: Path) -> Iterator[Maps]:
    """The table under its name, if there is one: looking makes none."""
    if not (root / PROBES).exists():
        yield {}
        return
    with probes(root) as table:
        yield {PROBES: table}


def drop_probes(root: Path) -> None:
    """Takes the table away when no program that has it is left."""
    with suppress(FileNotFoundError):
        if not any(pin.name.startswith(_THAT_HAVE_IT) for pin in root.iterdir()):
            (root / PROBES).unlink()


def _total(recordings: Descriptor, kind: Recording) -> int:
    cpus = libbpf.possible_cpus()
    values = libbpf.read(recordings, kind, cpus * _NUMBER_BYTES)
    return sum(struct.unpack(f"={cpus}Q", values)) if values else 0
