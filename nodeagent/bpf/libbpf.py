"""libbpf through ctypes: loading objects, pinning, links, maps. Beside `nodeagent.linux` the only place for ctypes.

Every descriptor that is handed out is the caller's, in a `Descriptor` that closes it.
"""

import ctypes
import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

from nodeagent.bpf.info import Info, LinkInfo, MapInfo, ProgramInfo, RunOptions
from nodeagent.bpf.messages import Messages
from nodeagent.linux.errors import KernelError

SK_LOOKUP_ATTACH_TYPE: Final = 36
_HINT: Final = "the agent needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN"


class Descriptor:
    """An open program, map or link. Closing it ends what neither a pin nor the kernel holds."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        """Safe to repeat."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Loaded:
    """An object in the kernel: its programs and maps by name. Owns their descriptors."""

    def __init__(self, program: Descriptor, maps: Mapping[str, Descriptor]) -> None:
        self.program = program
        self.maps = maps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (self.program, *self.maps.values()):
            descriptor.close()


def load(path: Path, program: str, maps: tuple[str, ...], *, reuse: Mapping[str, Descriptor] | None = None) -> Loaded:
    """Loads an object file with one program. Maps in `reuse` take the place of new ones; raises KernelError if they don't fit."""
    with Messages(_library()) as messages, _open(path, messages) as opened:
        for name, descriptor in (reuse or {}).items():
            found = _found(_library().bpf_object__find_map_by_name(opened, name.encode()), f"{path}: map {name}")
            _check(_library().bpf_map__reuse_fd(found, descriptor.fileno()), f"map {name}", messages.text)
        _check(_library().bpf_object__load(opened), f"eBPF program {program}", messages.text)
        with ExitStack() as undo:
            taken = {name: undo.enter_context(_taken(opened, "map", name)) for name in maps}
            loaded = Loaded(undo.enter_context(_taken(opened, "program", program)), taken)
            undo.pop_all()
            return loaded


def shape(path: Path, name: str) -> MapInfo:
    """How the object file wants a map to be."""
    with Messages(_library()) as messages, _open(path, messages) as opened:
        found = _found(_library().bpf_object__find_map_by_name(opened, name.encode()), f"{path}: map {name}")
        library = _library()
        return MapInfo(
            type=library.bpf_map__type(found),
            key_size=library.bpf_map__key_size(found),
            value_size=library.bpf_map__value_size(found),
            max_entries=library.bpf_map__max_entries(found),
        )


def pin(descriptor: Descriptor, path: Path) -> None:
    """Keeps it under a name of a bpffs, beyond this process."""
    _check(_library().bpf_obj_pin(descriptor.fileno(), bytes(path)), f"pin {path}")


def pinned(path: Path) -> Descriptor:
    """Opens what is pinned; raises KernelError (ENOENT if nothing is)."""
    return Descriptor(_check(_library().bpf_obj_get(bytes(path)), f"pin {path}"))


def attach(program: Descriptor, target: int, attach_type: int) -> Descriptor:
    """Makes a link: the program runs there as long as the link is open or pinned."""
    return Descriptor(_check(_library().bpf_link_create(program.fileno(), target, attach_type, None), "eBPF link"))


def replace(link: Descriptor, program: Descriptor) -> None:
    """Puts another program in the place of the link's, without a moment between them."""
    _check(_library().bpf_link_update(link.fileno(), program.fileno(), None), "eBPF link")


def detach(link: Descriptor) -> None:
    """Ends what a link does, whoever holds it."""
    _check(_library().bpf_link_detach(link.fileno()), "eBPF link")


def map_info(descriptor: Descriptor) -> MapInfo:
    info = _info(descriptor, Info.Map)
    return MapInfo(info.type, info.key_size, info.value_size, info.max_entries)


def program_info(descriptor: Descriptor) -> ProgramInfo:
    info = _info(descriptor, Info.Program)
    return ProgramInfo(id=info.id, tag=bytes(info.tag), verified_instructions=info.verified_insns)


def link_info(descriptor: Descriptor) -> LinkInfo:
    info = _info(descriptor, Info.Link)
    return LinkInfo(program_id=info.prog_id, namespace_inode=info.netns_ino)


def program_of(link: Descriptor) -> Descriptor:
    """The program that a link runs now."""
    return Descriptor(_check(_library().bpf_prog_get_fd_by_id(link_info(link).program_id), "eBPF program"))


def write(table: Descriptor, key: int, value: bytes) -> None:
    """Sets the entry of a 32-bit key."""
    _check(_library().bpf_map_update_elem(table.fileno(), ctypes.byref(ctypes.c_uint32(key)), value, 0), "eBPF map")


def read(table: Descriptor, key: int, size_bytes: int) -> bytes | None:
    """The entry of a 32-bit key, None if there is none."""
    value = ctypes.create_string_buffer(size_bytes)
    result = _library().bpf_map_lookup_elem(table.fileno(), ctypes.byref(ctypes.c_uint32(key)), value)
    if result < 0 and ctypes.get_errno() == errno.ENOENT:
        return None
    _check(result, "eBPF map")
    return value.raw


def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    return _check(_library().libbpf_num_possible_cpus(), "CPUs")


def run_once(program: Descriptor, context: bytes) -> tuple[int, bytes]:
    """Runs a program once on `context`; returns its verdict and the context as it left it."""
    out = ctypes.create_string_buffer(len(context))
    run = RunOptions(
        sz=ctypes.sizeof(RunOptions), ctx_in=context, ctx_size_in=len(context), ctx_out=ctypes.cast(out, ctypes.c_void_p), repeat=1,
        ctx_size_out=len(context),
    )  # fmt: skip
    _check(_library().bpf_prog_test_run_opts(program.fileno(), ctypes.byref(run)), "eBPF test run")
    return run.retval, out.raw


def _info(descriptor: Descriptor, kind: type[ctypes.Structure]) -> Any:
    """Any: the fields of `kind`."""
    info = kind()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(_library().bpf_obj_get_info_by_fd(descriptor.fileno(), ctypes.byref(info), ctypes.byref(size)), "eBPF object")
    return info


@contextmanager
def _open(path: Path, messages: Messages) -> Iterator[int]:
    ctypes.set_errno(0)
    opened = _library().bpf_object__open_file(bytes(path), None)
    if not opened:
        hint = "the programs are built by `make bpf`" if not path.exists() else ""
        raise KernelError(ctypes.get_errno(), f"eBPF object {path}", hint, detail=messages.text)
    try:
        yield opened
    finally:
        _library().bpf_object__close(opened)


def _taken(opened: int, kind: str, name: str) -> Descriptor:
    """A descriptor of our own: libbpf closes its with the object."""
    library = _library()
    find, descriptor_of = {
        "map": (library.bpf_object__find_map_by_name, library.bpf_map__fd),
        "program": (library.bpf_object__find_program_by_name, library.bpf_program__fd),
    }[kind]
    return Descriptor(os.dup(descriptor_of(_found(find(opened, name.encode()), f"{kind} {name}"))))


def _found(pointer: int | None, subject: str) -> int:
    if not pointer:
        raise KernelError(ctypes.get_errno(), subject)
    return pointer


def _check(result: int, subject: str, detail: str = "") -> int:
    if result < 0:
        # All of these functions set errno, and return it negative.
        raise KernelError(-result, subject, _HINT if -result in {errno.EPERM, errno.EACCES} else "", detail=detail)
    return result


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise KernelError(errno.ENOENT, "libbpf.so.1", "install the package libbpf1") from error
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("bpf_object__open_file", pointer, (text, pointer)),
        ("bpf_object__close", None, (pointer,)),
        ("bpf_object__load", number, (pointer,)),
        ("bpf_object__find_map_by_name", pointer, (pointer, text)),
        ("bpf_object__find_program_by_name", pointer, (pointer, text)),
        ("bpf_map__fd", number, (pointer,)),
        ("bpf_map__reuse_fd", number, (pointer, number)),
        ("bpf_map__type", ctypes.c_uint32, (pointer,)),
        ("bpf_map__key_size", ctypes.c_uint32, (pointer,)),
        ("bpf_map__value_size", ctypes.c_uint32, (pointer,)),
        ("bpf_map__max_entries", ctypes.c_uint32, (pointer,)),
        ("bpf_program__fd", number, (pointer,)),
        ("bpf_obj_pin", number, (number, text)),
        ("bpf_obj_get", number, (text,)),
        ("bpf_obj_get_info_by_fd", number, (number, pointer, pointer)),
        ("bpf_prog_get_fd_by_id", number, (ctypes.c_uint32,)),
        ("bpf_link_create", number, (number, number, number, pointer)),
        ("bpf_link_update", number, (number, number, pointer)),
        ("bpf_link_detach", number, (number,)),
        ("bpf_map_update_elem", number, (number, pointer, text, ctypes.c_uint64)),
        ("bpf_map_lookup_elem", number, (number, pointer, pointer)),
        ("bpf_prog_test_run_opts", number, (number, pointer)),
        ("libbpf_num_possible_cpus", number, ()),
    ):  # fmt: skip
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
