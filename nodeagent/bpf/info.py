"""What the kernel tells of eBPF objects: the structures of <linux/bpf.h> up to the field that is read, and what we make of them."""

import ctypes
from typing import Final

from msgspec import Struct

_NAME_BYTES: Final = 16
_TAG_BYTES: Final = 8


class MapInfo(Struct, frozen=True):
    """What must be the same for a map to take the place of another. Sizes in bytes, of one value (per CPU, if the type is)."""

    type: int
    key_size: int
    value_size: int
    max_entries: int


class ProgramInfo(Struct, frozen=True):
    """`tag`: equal for programs of the same instructions. `verified_instructions`: how many the verifier had to walk."""

    id: int
    tag: bytes
    verified_instructions: int
    map_ids: frozenset[int]


class LinkInfo(Struct, frozen=True):
    """`target`: the inode of the network namespace, or the id of the cgroup; 0 once that is gone, or the link was detached."""

    program_id: int
    target: int


class RunOptions(ctypes.Structure):
    """`struct bpf_test_run_opts` of <bpf/bpf.h>."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Info:
    """The kernel's structures."""

    class Map(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_uint32),
            ("id", ctypes.c_uint32),
            ("key_size", ctypes.c_uint32),
            ("value_size", ctypes.c_uint32),
            ("max_entries", ctypes.c_uint32),
            ("map_flags", ctypes.c_uint32),
        )

    class Link(ctypes.Structure):
        """Of a link to a network namespace."""

        _fields_ = (
            ("type", ctypes.c_uint32),
            ("id", ctypes.c_uint32),
            ("prog_id", ctypes.c_uint32),
            ("_alignment", ctypes.c_uint32),
            ("netns_ino", ctypes.c_uint32),
            ("attach_type", ctypes.c_uint32),
        )

    class CgroupLink(ctypes.Structure):
        """Of a link to a cgroup."""

        _fields_ = (
            ("type", ctypes.c_uint32),
            ("id", ctypes.c_uint32),
            ("prog_id", ctypes.c_uint32),
            ("_alignment", ctypes.c_uint32),
            ("cgroup_id", ctypes.c_uint64),
            ("attach_type", ctypes.c_uint32),
        )

    class Program(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_uint32),
            ("id", ctypes.c_uint32),
            ("tag", ctypes.c_uint8 * _TAG_BYTES),
            ("jited_prog_len", ctypes.c_uint32),
            ("xlated_prog_len", ctypes.c_uint32),
            ("jited_prog_insns", ctypes.c_uint64),
            ("xlated_prog_insns", ctypes.c_uint64),
            ("load_time", ctypes.c_uint64),
            ("created_by_uid", ctypes.c_uint32),
            ("nr_map_ids", ctypes.c_uint32),
            ("map_ids", ctypes.c_uint64),
            ("name", ctypes.c_char * _NAME_BYTES),
            ("ifindex", ctypes.c_uint32),
            ("gpl_compatible", ctypes.c_uint32),
            ("netns_dev", ctypes.c_uint64),
            ("netns_ino", ctypes.c_uint64),
            ("nr_jited_ksyms", ctypes.c_uint32),
            ("nr_jited_func_lens", ctypes.c_uint32),
            ("jited_ksyms", ctypes.c_uint64),
            ("jited_func_lens", ctypes.c_uint64),
            ("btf_id", ctypes.c_uint32),
            ("func_info_rec_size", ctypes.c_uint32),
            ("func_info", ctypes.c_uint64),
            ("nr_func_info", ctypes.c_uint32),
            ("nr_line_info", ctypes.c_uint32),
            ("line_info", ctypes.c_uint64),
            ("jited_line_info", ctypes.c_uint64),
            ("nr_jited_line_info", ctypes.c_uint32),
            ("line_info_rec_size", ctypes.c_uint32),
            ("jited_line_info_rec_size", ctypes.c_uint32),
            ("nr_prog_tags", ctypes.c_uint32),
            ("prog_tags", ctypes.c_uint64),
            ("run_time_ns", ctypes.c_uint64),
            ("run_cnt", ctypes.c_uint64),
            ("recursion_misses", ctypes.c_uint64),
            ("verified_insns", ctypes.c_uint32),
            ("attach_btf_obj_id", ctypes.c_uint32),
            ("attach_btf_id", ctypes.c_uint32),
        )
