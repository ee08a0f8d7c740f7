"""What libbpf has to say while it loads: kept for the error, instead of written to the agent's output."""

import ctypes
import threading
from typing import Any, Final, Self

_LINE_BYTES: Final = 65536
_KEPT_LINES: Final = 12
_libc = ctypes.CDLL(None)
# libbpf has one printing function per process; loading is rare, so one thread at a time loads.
_one_at_a_time = threading.Lock()


class Messages:
    """Collects from when it is entered until it is left."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._lines: list[str] = []
        # A `va_list` parameter is passed as a pointer on every platform that this runs on.
        self._callback: Any = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(self._print)

    def _print(self, level: int, form: int, arguments: int) -> int:
        if level > 1:  # debugging
            return 0
        line = ctypes.create_string_buffer(_LINE_BYTES)
        _libc.vsnprintf(line, ctypes.c_size_t(_LINE_BYTES), ctypes.c_void_p(form), ctypes.c_void_p(arguments))
        self._lines += line.value.decode(errors="replace").splitlines()
        return 0

    @property
    def text(self) -> str:
        """The last lines: with the verifier, those that say why."""
        return "; ".join(line.strip() for line in self._lines[-_KEPT_LINES:])

    def __enter__(self) -> Self:
        _one_at_a_time.acquire()
        self._library.libbpf_set_print(self._callback)
        return self

    def __exit__(self, *_: object) -> None:
        self._library.libbpf_set_print(None)
        _one_at_a_time.release()
