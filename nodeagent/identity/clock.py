"""The two clocks that certificates need, in one value that tests can own."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall_s`: Unix seconds, may jump. `now_s`: monotonic seconds."""

    wall_s: Callable[[], float] = time.time
    now_s: Callable[[], float] = time.monotonic
