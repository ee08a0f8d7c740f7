"""The memory of this process, once it has started."""

import ctypes
import gc


def settle() -> None:
    """To be called once after the start: what is there is there to stay, and what starting took beyond it goes back to the kernel.

    A full collection would look at a hundred thousand objects of imported modules each time, while the proxy waits for an answer. The C
    library keeps what was freed to it (a kernel's type information, rule sets that were compiled on trial) until it is told to let go.
    """
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries give back by themselves
    if trim is not None:
        trim(0)
