"""What asyncio of Python before 3.11.3 gets wrong, mended; Debian 12 has 3.11.2.

There `asyncio.timeout` raises CancelledError instead of TimeoutError in a task that has seen a TaskGroup fail, since such a task counts as
being cancelled for good (python/cpython#102780). A task that ends by CancelledError ends without a word: no stream would be dialled again.
"""

import sys
from functools import cache
from types import TracebackType
from typing import Any, Final

MENDED_IN: Final = (3, 11, 3)


@cache
def mend() -> None:
    """For this process; does nothing where nothing is wrong, or all is mended. To be called before a loop runs."""
    if sys.version_info >= MENDED_IN:
        return
    from asyncio.exceptions import CancelledError
    from asyncio.timeouts import Timeout

    enter, leave = Timeout.__aenter__, Timeout.__aexit__

    async def entering(self: Any) -> Any:
        entered = await enter(self)
        self.cancelling_before = self._task.cancelling()
        return entered

    async def leaving(self: Any, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await leave(self, kind, error, trace)
        # Whoever else cancelled the task meanwhile comes first.
        if kind is CancelledError and self.expired() and self._task.cancelling() <= self.cancelling_before:
            raise TimeoutError from error

    for name, method in (("__aenter__", entering), ("__aexit__", leaving)):
        setattr(Timeout, name, method)
