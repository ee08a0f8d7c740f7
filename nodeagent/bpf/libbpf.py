"""libbpf through ctypes: loading objects, pinning, links, maps. Beside `nodeagent.linux` the only place for ctypes.

Every descriptor that is handed out is the caller's, in a `Descriptor` that closes it.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Self

from nodeagent.bpf.info import Info, LinkInfo, MapInfo, ProgramInfo, RunOptions
from nodeagent.bpf.library import check, library
from nodeagent.bpf.messages import Messages
from nodeagent.linux.errors import KernelError

Key = int | bytes
"""A number stands for the 32-bit key of an array."""


_BATCH: Final = 256
_POSITION_BYTES: Final = 4
"""Of where a batch in a hash table goes on; in an array it is a key."""


class AttachType(IntEnum):
    """Where a program runs: `enum bpf_attach_type` of <linux/bpf.h>, those that are used."""

    CGROUP_SOCK_OPS = 3
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    SK_LOOKUP = 36

    @property
    def is_cgroup(self) -> bool:
        """Of a cgroup; the others are of a network namespace."""
        return self is not AttachType.SK_LOOKUP


class Descriptor:
    """An open program, map or link. Closing it ends what neither a pin nor the kernel holds."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def duplicate(self) -> "Descriptor":
        """Another of the same, the caller's."""
        return Descriptor(os.dup(self._number))

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
    with Messages(library()) as messages, _open(path, messages) as opened:
        for name, descriptor in (reuse or {}).items():
            found = _found(library().bpf_object__find_map_by_name(opened, name.encode()), f"{path}: map {name}")
            check(library().bpf_map__reuse_fd(found, descriptor.fileno()), f"map {name}", messages.text)
        check(library().bpf_object__load(opened), f"eBPF program {program}", messages.text)
        with ExitStack() as undo:
            taken = {name: undo.enter_context(_taken(opened, "map", name)) for name in maps}
            loaded = Loaded(undo.enter_context(_taken(opened, "program", program)), taken)
            undo.pop_all()
            return loaded


def shape(path: Path, name: str) -> MapInfo:
    """How the object file wants a map to be."""
    with Messages(library()) as messages, _open(path, messages) as opened:
        found = _found(library().bpf_object__find_map_by_name(opened, name.encode()), f"{path}: map {name}")
        known = library()
        return MapInfo(
            type=known.bpf_map__type(found),
            key_size=known.bpf_map__key_size(found),
            value_size=known.bpf_map__value_size(found),
            max_entries=known.bpf_map__max_entries(found),
        )


def pin(descriptor: Descriptor, path: Path) -> None:
    """Keeps it under a name of a bpffs, beyond this process."""
    check(library().bpf_obj_pin(descriptor.fileno(), bytes(path)), f"pin {path}")


def pinned(path: Path) -> Descriptor:
    """Opens what is pinned; raises KernelError (ENOENT if nothing is)."""
    return Descriptor(check(library().bpf_obj_get(bytes(path)), f"pin {path}"))


def attach(program: Descriptor, target: int, attach_type: AttachType) -> Descriptor:
    """Makes a link: the program runs there, beside others, as long as the link is open or pinned."""
    return Descriptor(check(library().bpf_link_create(program.fileno(), target, attach_type, None), "eBPF link"))


def replace(link: Descriptor, program: Descriptor) -> None:
    """Puts another program in the place of the link's, without a moment between them."""
    check(library().bpf_link_update(link.fileno(), program.fileno(), None), "eBPF link")


def detach(link: Descriptor) -> None:
    """Ends what a link does, whoever holds it."""
    check(library().bpf_link_detach(link.fileno()), "eBPF link")


def map_info(descriptor: Descriptor) -> MapInfo:
    info = _info(descriptor, Info.Map())
    return MapInfo(info.type, info.key_size, info.value_size, info.max_entries)


def map_id(descriptor: Descriptor) -> int:
    """The kernel's number for a map, as a program names those that it uses."""
    return int(_info(descriptor, Info.Map()).id)


def map_by_id(number: int) -> Descriptor:
    """Opens the map that the kernel gives this number; raises KernelError (ENOENT if it is gone)."""
    return Descriptor(check(library().bpf_map_get_fd_by_id(number), "eBPF map"))


def program_info(descriptor: Descriptor) -> ProgramInfo:
    info = _info(descriptor, Info.Program())
    ids = (ctypes.c_uint32 * info.nr_map_ids)()
    again = _info(descriptor, Info.Program(nr_map_ids=len(ids), map_ids=ctypes.addressof(ids)))
    return ProgramInfo(id=again.id, tag=bytes(again.tag), verified_instructions=again.verified_insns, map_ids=frozenset(ids))


def link_info(descriptor: Descriptor, attach_type: AttachType) -> LinkInfo:
    if attach_type.is_cgroup:
        of_cgroup = _info(descriptor, Info.CgroupLink())
        return LinkInfo(program_id=of_cgroup.prog_id, target=of_cgroup.cgroup_id)
    info = _info(descriptor, Info.Link())
    return LinkInfo(program_id=info.prog_id, target=info.netns_ino)


def program_of(link: Descriptor) -> Descriptor:
    """The program that a link runs now."""
    # The number of the program stands at the same place whatever the link is to.
    return Descriptor(check(library().bpf_prog_get_fd_by_id(_info(link, Info.Link()).prog_id), "eBPF program"))


def create(name: str, wanted: MapInfo) -> Descriptor:
    """Makes a map that no object file has."""
    made = library().bpf_map_create(wanted.type, name.encode(), wanted.key_size, wanted.value_size, wanted.max_entries, None)
    return Descriptor(check(made, f"eBPF map {name}"))


def write(table: Descriptor, key: Key, value: bytes) -> None:
    """Sets an entry; raises KernelError (E2BIG where a table that forgets nothing is full)."""
    check(library().bpf_map_update_elem(table.fileno(), _bytes(key), value, 0), "eBPF map")


def read(table: Descriptor, key: Key, size_bytes: int) -> bytes | None:
    """An entry, None if there is none. `size_bytes`: of the value, times `possible_cpus()` rounded to 8 each in a table per CPU."""
    value = ctypes.create_string_buffer(size_bytes)
    result = library().bpf_map_lookup_elem(table.fileno(), _bytes(key), value)
    if result < 0 and ctypes.get_errno() == errno.ENOENT:
        return None
    check(result, "eBPF map")
    return value.raw


def delete(table: Descriptor, key: Key) -> bool:
    """Takes an entry out; returns whether there was one."""
    result = library().bpf_map_delete_elem(table.fileno(), _bytes(key))
    if result < 0 and ctypes.get_errno() == errno.ENOENT:
        return False
    check(result, "eBPF map")
    return True


def entries(table: Descriptor, size_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """All entries of an array or of a hash table, many in one call. `size_bytes` as with `read`.

    One that comes or goes meanwhile is among them or is not; of those that stay each is there once.
    """
    return _batches(library().bpf_map_lookup_batch, table, size_bytes)


def take(table: Descriptor, size_bytes: int) -> list[tuple[bytes, bytes]]:
    """All entries of a hash table, which are taken out of it: none is had twice."""
    return list(_batches(library().bpf_map_lookup_and_delete_batch, table, size_bytes))


def _batches(fetch: Callable[..., int], table: Descriptor, size_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    key_bytes = map_info(table).key_size
    count = _BATCH
    position: ctypes.Array[ctypes.c_char] | None = None
    while True:
        keys, values = ctypes.create_string_buffer(count * key_bytes), ctypes.create_string_buffer(count * size_bytes)
        found, after = ctypes.c_uint32(count), ctypes.create_string_buffer(max(key_bytes, _POSITION_BYTES))
        result = fetch(table.fileno(), position, after, keys, values, ctypes.byref(found), None)
        if result == -errno.ENOSPC:  # more entries have the same hash than there is room for
            count *= 2
            continue
        if result != -errno.ENOENT:
            check(result, "eBPF map")
        whole = (struct.iter_unpack(f"{size}s", of.raw[: found.value * size]) for of, size in ((keys, key_bytes), (values, size_bytes)))
        yield from ((key, value) for (key,), (value,) in zip(*whole, strict=True))
        if result < 0:
            return
        position = after


def delete_all(table: Descriptor, keys: Sequence[bytes]) -> None:
    """Takes entries out of a hash table, many in one call; fine if some are not there."""
    rest = keys
    while rest:
        count = ctypes.c_uint32(len(rest))
        result = library().bpf_map_delete_batch(table.fileno(), b"".join(rest), ctypes.byref(count), None)
        if result != -errno.ENOENT:
            check(result, "eBPF map")
            return
        # It stops at the first that is not there.
        rest = rest[count.value + 1 :]


def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    return check(library().libbpf_num_possible_cpus(), "CPUs")


def run_once(program: Descriptor, context: bytes) -> tuple[int, bytes]:
    """Runs a program once on `context`; returns its verdict and the context as it left it."""
    out = ctypes.create_string_buffer(len(context))
    run = RunOptions(
        sz=ctypes.sizeof(RunOptions), ctx_in=context, ctx_size_in=len(context), ctx_out=ctypes.cast(out, ctypes.c_void_p), repeat=1,
        ctx_size_out=len(context),
    )  # fmt: skip
    check(library().bpf_prog_test_run_opts(program.fileno(), ctypes.byref(run)), "eBPF test run")
    return run.retval, out.raw


def _bytes(key: Key) -> bytes:
    return key if isinstance(key, bytes) else struct.pack("=I", key)


def _info(descriptor: Descriptor, info: ctypes.Structure) -> Any:
    """Any: the fields of `info`, which is filled."""
    size = ctypes.c_uint32(ctypes.sizeof(info))
    check(library().bpf_obj_get_info_by_fd(descriptor.fileno(), ctypes.byref(info), ctypes.byref(size)), "eBPF object")
    return info


@contextmanager
def _open(path: Path, messages: Messages) -> Iterator[int]:
    ctypes.set_errno(0)
    opened = library().bpf_object__open_file(bytes(path), None)
    if not opened:
        hint = "the programs are built by `make bpf`" if not path.exists() else ""
        raise KernelError(ctypes.get_errno(), f"eBPF object {path}", hint, detail=messages.text)
    try:
        yield opened
    finally:
        library().bpf_object__close(opened)


def _taken(opened: int, kind: str, name: str) -> Descriptor:
    """A descriptor of our own: libbpf closes its with the object."""
    known = library()
    find, descriptor_of = {
        "map": (known.bpf_object__find_map_by_name, known.bpf_map__fd),
        "program": (known.bpf_object__find_program_by_name, known.bpf_program__fd),
    }[kind]
    return Descriptor(os.dup(descriptor_of(_found(find(opened, name.encode()), f"{kind} {name}"))))


def _found(pointer: int | None, subject: str) -> int:
    if not pointer:
        raise KernelError(ctypes.get_errno(), subject)
    return pointer
