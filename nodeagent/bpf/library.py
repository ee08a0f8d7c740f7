"""libbpf itself: its functions with their types, and its refusals as KernelErrors."""

import ctypes
import errno
from functools import cache
from typing import Final

from nodeagent.linux.errors import KernelError

_HINT: Final = "the agent needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN"


def check(result: int, subject: str, detail: str = "") -> int:
    """`result`, if it is no refusal; raises KernelError otherwise. All of these functions set errno, and return it negative."""
    if result < 0:
        raise KernelError(-result, subject, _HINT if -result in {errno.EPERM, errno.EACCES} else "", detail=detail)
    return result


@cache
def library() -> ctypes.CDLL:
    """Raises KernelError where it is not installed."""
    loaded = _loaded()
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("bpf_object__open_file", pointer, (text, pointer)),
        ("bpf_object__close", None, (pointer,)),
        ("bpf_object__load", number, (pointer,)),
        ("bpf_object__find_map_by_name", pointer, (pointer, text)),
        ("bpf_object__find_program_by_name", pointer, (pointer, text)),
        ("bpf_map_create", number, (number, text, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32, pointer)),
        ("ring_buffer__new", pointer, (number, pointer, pointer, pointer)),
        ("ring_buffer__consume", number, (pointer,)),
        ("ring_buffer__free", None, (pointer,)),
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
        ("bpf_map_get_fd_by_id", number, (ctypes.c_uint32,)),
        ("bpf_link_create", number, (number, number, number, pointer)),
        ("bpf_link_update", number, (number, number, pointer)),
        ("bpf_link_detach", number, (number,)),
        ("bpf_iter_create", number, (number,)),
        ("bpf_map_update_elem", number, (number, text, text, ctypes.c_uint64)),
        ("bpf_map_lookup_elem", number, (number, text, pointer)),
        ("bpf_map_delete_elem", number, (number, text)),
        ("bpf_map_lookup_batch", number, (number, pointer, pointer, pointer, pointer, pointer, pointer)),
        ("bpf_map_lookup_and_delete_batch", number, (number, pointer, pointer, pointer, pointer, pointer, pointer)),
        ("bpf_map_delete_batch", number, (number, text, pointer, pointer)),
        ("bpf_prog_test_run_opts", number, (number, pointer)),
        ("libbpf_num_possible_cpus", number, ()),
    ):  # fmt: skip
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def _loaded() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise KernelError(errno.ENOENT, "libbpf.so.1", "install the package libbpf1") from error
