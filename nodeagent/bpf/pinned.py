"""A program that works on without the agent: pinned with its maps, a directory for each place that it runs in.

    <root>/<program>-<id of the place>/{each of its maps, link}
    <root>/<shared map>

The link comes last and is what counts: a directory without a live one is rubbish of a crash, or of a place that is gone. A map that
programs of several places share belongs to none of them: see `shared_map`.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from nodeagent.bpf import libbpf
from nodeagent.bpf.info import MapInfo
from nodeagent.bpf.libbpf import AttachType, Descriptor, Loaded
from nodeagent.linux.errors import KernelError

LINK: Final = "link"
Maps = Mapping[str, Descriptor]
Fill = Callable[[Maps], None]


class HasId(Protocol):
    """A place by its number: whether it is still there is asked of the link."""

    @property
    def id(self) -> int:
        """As the kernel's description of a link has it."""


class Place(HasId, Protocol):
    """Where a program runs: an open network namespace or cgroup."""

    def fileno(self) -> int:
        """What it is opened as."""


class Known(Struct, frozen=True):
    """See `HasId`."""

    id: int


class Program(Struct, frozen=True):
    """A program as it was built, its own maps, and those that it shares with others."""

    object: Path
    name: str
    attach_type: AttachType
    maps: tuple[str, ...]
    shared: tuple[str, ...] = ()


class Attached:
    """What runs in a place. `maps` are the program's own, open as long as the block that asked."""

    def __init__(self, maps: Maps, *, current: bool) -> None:
        self.maps = maps
        self.current = current
        """It is this version's program, with all its maps and the shared ones that were asked about."""


class Pinned:
    """See the module. Every method blocks and raises KernelError."""

    def __init__(self, root: Path, program: Program) -> None:
        """`root`: a directory on a bpffs, made if it is not there."""
        self._root = root
        self._program = program

    def attach(self, place: Place, fill: Fill = lambda maps: None, *, shared: Maps | None = None) -> None:  # noqa: ARG005
        """Runs there from now on. `fill` is given the program's own maps before it runs with them.

        A program of another version is replaced in place, with the maps that it has: none is emptied, and one of another layout is refused.
        """
        directory = self._directory(place)
        with ExitStack() as opened:
            link = self._live(place, opened)
            if link is None:
                self._attach_new(place, directory, fill, shared or {})
                return
            own = self._own(directory, opened)
            if misfits := self._misfits(own):
                raise _misfit(directory, "; ".join(misfits))
            if self._is_current(link, own, shared or {}):
                fill(own)
                return
            loaded = opened.enter_context(self._load({**own, **(shared or {})}))
            fill(self._own_of(loaded))
            for name in set(self._program.maps) - set(own):
                (directory / name).unlink(missing_ok=True)
                libbpf.pin(loaded.maps[name], directory / name)
            libbpf.replace(link, loaded.program)

    def detach(self, place: HasId) -> None:
        """Ends it, and leaves nothing; fine if there is nothing."""
        with ExitStack() as opened:
            if link := self._live(place, opened):
                # Also if something else still holds it.
                libbpf.detach(link)
        _clear(self._directory(place))

    @contextmanager
    def open(self, place: HasId, *, shared: Maps | None = None) -> Iterator[Attached | None]:
        """What runs there; None if nothing does."""
        with ExitStack() as opened:
            link = self._live(place, opened)
            if link is None:
                yield None
                return
            own = self._own(self._directory(place), opened)
            yield Attached(own, current=not self._misfits(own) and self._is_current(link, own, shared or {}))

    def pin(self, place: Place, name: str) -> Descriptor:
        """One of the program's own maps there, the caller's to close; raises KernelError (ENOENT) if there is none."""
        return libbpf.pinned(self._directory(place) / name)

    def places(self) -> list[Known]:
        """Where there are pins; of some, the place may be gone."""
        found = (path.name.removeprefix(f"{self._program.name}-") for path in self._root.glob(f"{self._program.name}-*"))
        return [Known(int(number)) for number in found if number.isdecimal()]

    def sweep(self) -> None:
        """Clears what is left of places that are gone."""
        for directory in self._root.glob(f"{self._program.name}-*"):
            with ExitStack() as opened:
                path = directory / LINK
                gone = not path.exists() or not self._target(opened.enter_context(libbpf.pinned(path)))
            if gone:
                _clear(directory)

    def _attach_new(self, place: Place, directory: Path, fill: Fill, shared: Maps) -> None:
        _clear(directory)
        with ExitStack() as undo:
            loaded = undo.enter_context(self._load(shared))
            fill(self._own_of(loaded))
            self._root.mkdir(mode=0o700, exist_ok=True)
            directory.mkdir(mode=0o700)
            failed = undo.enter_context(ExitStack())
            failed.callback(_clear, directory)
            for name in self._program.maps:
                libbpf.pin(loaded.maps[name], directory / name)
            link = undo.enter_context(libbpf.attach(loaded.program, place.fileno(), self._program.attach_type))
            libbpf.pin(link, directory / LINK)
            failed.pop_all()

    def _load(self, reuse: Maps) -> Loaded:
        program = self._program
        return libbpf.load(program.object, program.name, (*program.maps, *program.shared), reuse=reuse)

    def _own_of(self, loaded: Loaded) -> dict[str, Descriptor]:
        return {name: loaded.maps[name] for name in self._program.maps}

    def _own(self, directory: Path, opened: ExitStack) -> dict[str, Descriptor]:
        """Those that are there: one may be new in this version."""
        there = (name for name in self._program.maps if (directory / name).exists())
        return {name: opened.enter_context(libbpf.pinned(directory / name)) for name in there}

    def _directory(self, place: HasId) -> Path:
        return self._root / f"{self._program.name}-{place.id}"

    def _live(self, place: HasId, opened: ExitStack) -> Descriptor | None:
        """The link, if it is this place's: another may have got the number of one that is gone."""
        path = self._directory(place) / LINK
        if not path.exists():
            return None
        link = opened.enter_context(libbpf.pinned(path))
        return link if self._target(link) == place.id else None

    def _target(self, link: Descriptor) -> int:
        return libbpf.link_info(link, self._program.attach_type).target

    def _is_current(self, link: Descriptor, own: Maps, shared: Maps) -> bool:
        with libbpf.program_of(link) as running:
            info = libbpf.program_info(running)
        used = {libbpf.map_id(descriptor) for descriptor in (*own.values(), *shared.values())}
        return info.tag == _tag(self._program) and used <= info.map_ids and set(own) == set(self._program.maps)

    def _misfits(self, own: Maps) -> list[str]:
        """Maps of another layout must be neither filled as if they were ours nor replaced by empty ones."""
        shapes = {name: (libbpf.map_info(descriptor), _shape(self._program.object, name)) for name, descriptor in own.items()}
        return [f"{name} is {found}, this version needs {wanted}" for name, (found, wanted) in shapes.items() if found != wanted]


def shared_map(root: Path, program: Program, name: str) -> Descriptor:
    """The one map of this name below `root`, as `program` declares it: made if it is not there, the caller's to close.

    It stays until `root` does, or it is unpinned. One of another layout is refused with a KernelError.
    """
    path = root / name
    if not path.exists():
        root.mkdir(mode=0o700, exist_ok=True)
        with libbpf.load(program.object, program.name, (name,)) as loaded:
            try:
                libbpf.pin(loaded.maps[name], path)
            except KernelError as error:
                if error.errno != errno.EEXIST:  # another was faster
                    raise
    found = libbpf.pinned(path)
    if (shape := libbpf.map_info(found)) != (wanted := _shape(program.object, name)):
        found.close()
        raise _misfit(path, f"it is {shape}, this version needs {wanted}")
    return found


def _misfit(path: Path, detail: str) -> KernelError:
    hint = "another version of the agent made them: take the workload out of the mesh and back, or restart it"
    return KernelError(errno.EINVAL, f"eBPF maps in {path}", hint, detail=detail)


def _clear(directory: Path) -> None:
    """Fine if there is none."""
    with suppress(FileNotFoundError):
        for pin in directory.iterdir():
            pin.unlink()
        directory.rmdir()


@cache
def _tag(program: Program) -> bytes:
    """The kernel's own name for the instructions, however they were compiled."""
    with libbpf.load(program.object, program.name, ()) as loaded:
        return libbpf.program_info(loaded.program).tag


@cache
def _shape(program: Path, name: str) -> MapInfo:
    return libbpf.shape(program, name)
