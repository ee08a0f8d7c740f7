"""What the kernel counts of the proxy's connections between workloads: the programs, and typed views of their maps.

`mesh_sockets` is attached to the cgroup that the agent and the proxy run in, pinned as `pinned` says: connections that open while the
agent is away are counted, too. `sample_sockets` walks those that are open, and ends with the agent.
"""

import errno
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct

from meshapi.workload import IPAddress
from nodeagent.bpf import libbpf, walk
from nodeagent.bpf.libbpf import AttachType, Descriptor
from nodeagent.bpf.pinned import Maps, Pinned, Program
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.errors import KernelError

OBJECTS: Final = Path(__file__).parent / "objects"
PROGRAM: Final = Program(
    OBJECTS / "mesh_sockets.bpf.o", "mesh_sockets", AttachType.CGROUP_SOCK_OPS, ("watched", "flows", "figures", "workloads")
)
SAMPLER: Final = OBJECTS / "sample_sockets.bpf.o"
_SAMPLER_NAME: Final = "sample_sockets"
_SHARED: Final = ("watched", "flows", "figures")

BUCKETS: Final = 22
FIRST_BOUND_US: Final = 16
KEY: Final = struct.Struct("=Q16sII")
FLOW: Final = struct.Struct(f"={2 * BUCKETS + 5}Q")
FIGURES: Final = struct.Struct("=QQQ")
_NUMBER: Final = struct.Struct("=Q")
_OTHERS: Final = KEY.pack(0, bytes(16), 0, 0)
_PRESENT: Final = b"\1"
_US: Final = 1e-6


class Role(IntEnum):
    """Which end of a connection the workload of this node is: `enum role` of mesh_sockets.h."""

    SOURCE = 0
    DESTINATION = 1


class FlowKey(Struct, frozen=True):
    """Whom connections are counted for."""

    namespace: int
    """The cookie of the workload's network namespace; 0 for all that there was no room for."""
    remote: IPAddress
    role: Role


class Histogram(Struct, frozen=True):
    """`counts` by bucket: bucket i holds what is over the bound before and at most `FIRST_BOUND_US << i`, the last all that is longer."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    sum_us: int = 0


class Flow(Struct, frozen=True):
    """Totals of a flow, since its entry was made."""

    connect: Histogram = Histogram()
    rtt: Histogram = Histogram()
    retransmits: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class Figures(NamedTuple):
    """The latest of one socket; what is not known is None."""

    connect_s: float | None
    rtt_s: float | None
    retransmits: int


class MeshSockets:
    """The programs of one cgroup while they are attached and open. Every method blocks and raises KernelError."""

    def __init__(self, maps: Maps, walking: Descriptor) -> None:
        self._maps = maps
        self._walking = walking

    def set_workloads(self, namespaces: Collection[int]) -> None:
        """Counts for the workloads in the network namespaces with these cookies, and for no others."""
        wanted = {_NUMBER.pack(cookie) for cookie in namespaces}
        known = {key for key, _ in libbpf.entries(self._maps["workloads"], len(_PRESENT))}
        for key in known - wanted:
            libbpf.delete(self._maps["workloads"], key)
        for key in wanted - known:
            libbpf.write(self._maps["workloads"], key, _PRESENT)

    def sample(self) -> None:
        """Has the open connections counted, too, as they are now."""
        walk.walk(self._walking)

    def flows(self) -> Iterator[tuple[bytes, bytes]]:
        """Every flow that is counted, as `flow_key` and `flow` read them."""
        return libbpf.entries(self._maps["flows"], FLOW.size)

    def forget(self, key: bytes) -> bool:
        """Takes a flow out: what comes of it later begins at nothing. Not the one of all others; returns whether it is out."""
        return key != _OTHERS and libbpf.delete(self._maps["flows"], key)

    def figures(self, cookie: int) -> Figures | None:
        """Of the socket with this cookie, also for a while after its end; None if it is not known."""
        found = libbpf.read(self._maps["figures"], _NUMBER.pack(cookie), FIGURES.size)
        if found is None:
            return None
        connect_us, rtt_us, retransmits = FIGURES.unpack(found)
        return Figures(connect_us * _US or None, rtt_us * _US or None, retransmits)


@contextmanager
def attached(root: Path, cgroup: Cgroup, program: Program = PROGRAM, sampler: Path = SAMPLER) -> Iterator[MeshSockets]:
    """Attaches what is not attached yet, in its newest version, and opens it. `root`: a directory on a bpffs. Stays when the block ends."""
    pinned = Pinned(root, program)
    pinned.attach(cgroup, _fill)
    with ExitStack() as opened:
        found = opened.enter_context(pinned.open(cgroup))
        if found is None:
            raise KernelError(errno.ENOENT, f"cgroup {cgroup.path}")
        shared = {name: found.maps[name] for name in _SHARED}
        loaded = opened.enter_context(libbpf.load(sampler, _SAMPLER_NAME, (), reuse=shared))
        yield MeshSockets(found.maps, opened.enter_context(walk.prepare(loaded.program, found.maps["watched"])))


def detach(root: Path, cgroup: Cgroup) -> None:
    """Ends it, and leaves nothing."""
    Pinned(root, PROGRAM).detach(cgroup)


def sweep(root: Path) -> None:
    """Clears what is left of cgroups that are gone."""
    Pinned(root, PROGRAM).sweep()


def flow_key(raw: bytes) -> FlowKey:
    namespace, remote, role, _ = KEY.unpack(raw)
    address = IPv6Address(remote)
    return FlowKey(namespace, address.ipv4_mapped or address, Role(role))


def flow(raw: bytes) -> Flow:
    values = FLOW.unpack(raw)
    connect, (connect_us,) = values[:BUCKETS], values[BUCKETS : BUCKETS + 1]
    rtt, (rtt_us, *others) = values[BUCKETS + 1 : 2 * BUCKETS + 1], values[2 * BUCKETS + 1 :]
    return Flow(Histogram(connect, connect_us), Histogram(rtt, rtt_us), *others)


def _fill(maps: Maps) -> None:
    if libbpf.read(maps["flows"], _OTHERS, FLOW.size) is None:
        libbpf.write(maps["flows"], _OTHERS, bytes(FLOW.size))
