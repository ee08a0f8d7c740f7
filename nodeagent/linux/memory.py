"""The memory of this process."""

import ctypes
import gc
from typing import Final

_M_ARENA_MAX: Final = -8
_libc = ctypes.CDLL(None)


def use_one_heap() -> None:
    """To be called before the first thread is started: what the C library allocates comes from one heap.

    It would give each thread that allocates a heap of its own, none of which gets as small again as what is in it. Threads here take turns,
    so that they gain nothing by it (an agent with a dozen of them was 14 MB larger).
    """
    limit = getattr(_libc, "mallopt", None)  # other C libraries have one heap anyway
    if limit is not None:
        limit(_M_ARENA_MAX, 1)


def settle() -> None:
    """To be called once after the start: what is there is there to stay, and what starting took beyond it goes back to the kernel.

    A full collection would look at a hundred thousand objects of imported modules each time, while the proxy waits for an answer. The C
    library keeps what was freed to it (a kernel's type information, rule sets that were compiled on trial) until it is told to let go.
    """
    gc.freeze()
    trim = getattr(_libc, "malloc_trim", None)  # other C libraries give back by themselves
    if trim is not None:
        trim(0)
