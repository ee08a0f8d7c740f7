"""Running a function in a thread of its own that was changed first, and ends with it."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_in_thread(name: str, prepare: Callable[[], None], function: Callable[[], T]) -> T:
    """Calls `prepare`, then `function`, in a new thread; waits for it, and returns or raises what it does."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            prepare()
            result.append(function())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
