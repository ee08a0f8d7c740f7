"""How often something may be done: a bucket that fills steadily. Sans-IO."""


class Rate:
    """`per_s` times a second over time, `burst` at once. Times are of the monotonic clock, in seconds."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at_s: float | None = None

    def take(self, now: float) -> bool:
        """Whether it may be done once more now."""
        if self._at_s is not None:
            self._left = min(self._burst, self._left + (now - self._at_s) * self._per_s)
        self._at_s = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
