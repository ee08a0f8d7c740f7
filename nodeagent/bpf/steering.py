"""The steering program in a workload's network namespace: attached, filled with listeners, replaced, looked at, taken off.

Everything is pinned in a directory per namespace, so that it works on without the agent:

    <root>/<inode of the namespace>/{slots,reasons,link}

The link comes last and is what counts: a directory without a live one is rubbish of a crash, or of a namespace that is gone.
"""

import errno
import socket
import struct
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Final

from msgspec import Struct

from nodeagent.bpf import libbpf
from nodeagent.bpf.info import MapInfo
from nodeagent.bpf.libbpf import Descriptor
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace

OBJECT: Final = Path(__file__).parent / "objects/steer_inbound.bpf.o"
PROGRAM: Final = "steer_inbound"
SLOTS: Final = "slots"
REASONS: Final = "reasons"
LINK: Final = "link"
_MAPS: Final = (SLOTS, REASONS)
_NUMBER_BYTES: Final = 8
_SO_COOKIE: Final = 57


class Slot(IntEnum):
    """Whose listener: `enum slot` of steering.h."""

    INBOUND = 0
    INBOUND6 = 1
    HBONE = 2


class Reason(IntEnum):
    """Why a lookup ended as it did: `enum reason` of steering.h."""

    NOT_TCP = 0
    LOOPBACK = 1
    OWN = 2
    INBOUND = 3
    HBONE = 4
    NO_LISTENER = 5
    NOT_ASSIGNED = 6


class Steered(Struct, frozen=True):
    """What runs in a namespace. `lookups` since it was attached; `listeners` are the slots whose socket lives."""

    current: bool
    """It is this version's program."""
    listeners: frozenset[Slot]
    lookups: dict[Reason, int]


class Steering:
    """See the module. Every method blocks and raises KernelError."""

    def __init__(self, root: Path, program: Path = OBJECT) -> None:
        """`root`: a directory on a bpffs, made if it is not there. `program`: the object file."""
        self._root = root
        self._program = program

    def attach(self, namespace: Namespace, listeners: Mapping[Slot, socket.socket]) -> None:
        """Steers into these listeners from now on; slots that are not named stay as they are.

        A program of another version is replaced in place, with the maps that it has.
        """
        directory = self._directory(namespace)
        with ExitStack() as opened:
            link = self._live(namespace, opened)
            if link is None:
                self._attach_new(namespace, directory, listeners)
                return
            maps = {name: opened.enter_context(libbpf.pinned(directory / name)) for name in _MAPS}
            if misfits := self._misfits(maps):
                raise KernelError(
                    errno.EINVAL,
                    f"eBPF maps in {directory}",
                    "another version of the agent made them: take the workload out of the mesh and back, or restart it",
                    detail="; ".join(misfits),
                )
            _fill(maps[SLOTS], listeners)
            if not self._is_current(link):
                with libbpf.load(self._program, PROGRAM, _MAPS, reuse=maps) as loaded:
                    libbpf.replace(link, loaded.program)

    def detach(self, namespace: Namespace) -> None:
        """Ends it, and leaves nothing; fine if there is nothing."""
        with ExitStack() as opened:
            if link := self._live(namespace, opened):
                # Also if something else still holds it.
                libbpf.detach(link)
        _clear(self._directory(namespace))

    def inspect(self, namespace: Namespace) -> Steered | None:
        """What runs there; None if nothing does."""
        directory = self._directory(namespace)
        with ExitStack() as opened:
            link = self._live(namespace, opened)
            if link is None:
                return None
            maps = {name: opened.enter_context(libbpf.pinned(directory / name)) for name in _MAPS}
            return Steered(
                current=self._is_current(link) and not self._misfits(maps),
                listeners=frozenset(slot for slot in Slot if libbpf.read(maps[SLOTS], slot, _NUMBER_BYTES) is not None),
                lookups={reason: _total(maps[REASONS], reason) for reason in Reason},
            )

    def sweep(self) -> None:
        """Clears what is left of namespaces that are gone."""
        for directory in self._root.iterdir() if self._root.is_dir() else ():
            with ExitStack() as opened:
                path = directory / LINK
                gone = not path.exists() or not libbpf.link_info(opened.enter_context(libbpf.pinned(path))).namespace_inode
            if gone:
                _clear(directory)

    def _attach_new(self, namespace: Namespace, directory: Path, listeners: Mapping[Slot, socket.socket]) -> None:
        _clear(directory)
        with ExitStack() as undo:
            loaded = undo.enter_context(libbpf.load(self._program, PROGRAM, _MAPS))
            _fill(loaded.maps[SLOTS], listeners)
            self._root.mkdir(mode=0o700, exist_ok=True)
            directory.mkdir(mode=0o700)
            failed = undo.enter_context(ExitStack())
            failed.callback(_clear, directory)
            for name, descriptor in loaded.maps.items():
                libbpf.pin(descriptor, directory / name)
            link = undo.enter_context(libbpf.attach(loaded.program, namespace.fileno(), libbpf.SK_LOOKUP_ATTACH_TYPE))
            libbpf.pin(link, directory / LINK)
            failed.pop_all()

    def _directory(self, namespace: Namespace) -> Path:
        return self._root / str(namespace.key.inode)

    def _live(self, namespace: Namespace, opened: ExitStack) -> Descriptor | None:
        """The link, if all that belongs to it is there and it is this namespace's: another may have got the number of one that is gone."""
        directory = self._directory(namespace)
        if not all((directory / name).exists() for name in (*_MAPS, LINK)):
            return None
        link = opened.enter_context(libbpf.pinned(directory / LINK))
        return link if libbpf.link_info(link).namespace_inode == namespace.key.inode else None

    def _is_current(self, link: Descriptor) -> bool:
        with libbpf.program_of(link) as running:
            return libbpf.program_info(running).tag == _tag(self._program)

    def _misfits(self, maps: Mapping[str, Descriptor]) -> list[str]:
        """Maps of another layout must be neither filled as if they were ours nor replaced by empty ones."""
        shapes = {name: (libbpf.map_info(descriptor), _shape(self._program, name)) for name, descriptor in maps.items()}
        return [f"{name} is {found}, this version needs {wanted}" for name, (found, wanted) in shapes.items() if found != wanted]


def _fill(slots: Descriptor, listeners: Mapping[Slot, socket.socket]) -> None:
    for slot, listener in listeners.items():
        cookie = listener.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _NUMBER_BYTES)
        if libbpf.read(slots, slot, _NUMBER_BYTES) != cookie:
            libbpf.write(slots, slot, struct.pack("=Q", listener.fileno()))


def _total(reasons: Descriptor, reason: Reason) -> int:
    cpus = libbpf.possible_cpus()
    values = libbpf.read(reasons, reason, cpus * _NUMBER_BYTES)
    return sum(struct.unpack(f"={cpus}Q", values)) if values else 0


@cache
def _tag(program: Path) -> bytes:
    """The kernel's own name for the instructions, however they were compiled."""
    with libbpf.load(program, PROGRAM, _MAPS) as loaded:
        return libbpf.program_info(loaded.program).tag


@cache
def _shape(program: Path, name: str) -> MapInfo:
    return libbpf.shape(program, name)


def _clear(directory: Path) -> None:
    with suppress(FileNotFoundError):
        for pin in directory.iterdir():
            pin.unlink()
        directory.rmdir()
