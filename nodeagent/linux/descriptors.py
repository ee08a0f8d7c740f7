"""An open descriptor with an owner: closed once, however it ends."""

import os
from typing import Self


class OwnedDescriptor:
    """Holds a descriptor open until `close`."""

    def __init__(self, descriptor: int) -> None:
        """Takes `descriptor` over."""
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor, as long as it is open."""
        return self._descriptor

    def close(self) -> None:
        """Closes the descriptor; safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
