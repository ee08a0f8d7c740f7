"""Programs that walk a map, or the sockets of a network: the kernel calls them once for each, in whatever order, when they are asked to."""

import ctypes
import os
from typing import Final

from nodeagent.bpf.libbpf import Descriptor
from nodeagent.bpf.library import check, library

_TRACE_ITER: Final = 28
"""`BPF_TRACE_ITER` of <linux/bpf.h>."""
_READ_BYTES: Final = 4096


class MapTarget(ctypes.Structure):
    """`union bpf_iter_link_info` of <linux/bpf.h>, for a map."""

    _fields_ = (("map_fd", ctypes.c_uint32), ("_others", ctypes.c_uint8 * 12))


class LinkOptions(ctypes.Structure):
    """`struct bpf_link_create_opts` of <bpf/bpf.h>, up to what a walk needs."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
    )


def prepare(program: Descriptor, table: Descriptor | None = None) -> Descriptor:
    """A link between a walking program and the map that it walks, if it is one: what `walk` takes. The caller's; raises KernelError."""
    if table is None:
        return Descriptor(check(library().bpf_link_create(program.fileno(), 0, _TRACE_ITER, None), "eBPF walk"))
    target = MapTarget(map_fd=table.fileno())
    options = LinkOptions(sz=ctypes.sizeof(LinkOptions), iter_info=ctypes.addressof(target), iter_info_len=ctypes.sizeof(target))
    return Descriptor(check(library().bpf_link_create(program.fileno(), 0, _TRACE_ITER, ctypes.byref(options)), "eBPF walk"))


def walk(link: Descriptor) -> None:
    """Has the program look at all that is there now; sockets are those of this thread's network. Blocks; raises KernelError."""
    with Descriptor(check(library().bpf_iter_create(link.fileno()), "eBPF walk")) as walking:
        # The program runs while we read; what it does not write, there is nothing of to keep.
        while os.read(walking.fileno(), _READ_BYTES):
            pass
