"""A ring buffer that eBPF programs write and the agent reads: readable when there is something in it."""

import ctypes
from types import TracebackType
from typing import Any, Final, Self

from nodeagent.bpf.libbpf import Descriptor
from nodeagent.bpf.library import check, library
from nodeagent.linux.errors import KernelError

_SAMPLE: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class RingBuffer:
    """Owns its map's descriptor, which becomes readable with each record that comes into an empty buffer.

    What was written while nobody read is there for the next who does. One reads at a time.
    """

    def __init__(self, table: Descriptor) -> None:
        """Raises KernelError; `table` is closed then."""
        self._table = table
        self._records: list[bytes] = []
        self._callback: Any = _SAMPLE(self._take)
        self._ring = library().ring_buffer__new(table.fileno(), self._callback, None, None)
        if not self._ring:
            table.close()
            raise KernelError(ctypes.get_errno(), "eBPF ring buffer")

    def fileno(self) -> int:
        return self._table.fileno()

    def read(self) -> list[bytes]:
        """What has come since the last time, in order; never waits."""
        check(library().ring_buffer__consume(self._ring), "eBPF ring buffer")
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        """Safe to repeat."""
        if self._ring:
            library().ring_buffer__free(self._ring)
            self._ring = None
        self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _take(self, _context: int, data: int, size_bytes: int) -> int:
        self._records.append(ctypes.string_at(data, size_bytes))
        return 0
