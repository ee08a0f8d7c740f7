"""The metrics of the rate limit server: names and labels in one place. No label takes a value that a caller chooses."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from control.ratelimit.asking import Decision

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._decisions = Counter("nodemesh_rate_limit_decisions", "Descriptors that were asked about.", ["decision"], registry=registry)
        failures = "Questions without an answer: malformed, uncounted."
        self._failures = Counter("nodemesh_rate_limit_failures", failures, ["why"], registry=registry)
        wrong = "1 if the files are wrong, and what they said before is in force."
        self.reload_failed = Gauge("nodemesh_rate_limit_reload_failed", wrong, registry=registry)
        self._keys = Gauge("nodemesh_rate_limit_keys", "Keys whose counts are kept in memory.", registry=registry)
        beyond = "How many counts so far shared a key for want of room."
        self._overflowed = Gauge("nodemesh_rate_limit_overflowed", beyond, registry=registry)
        for word in Decision:
            self._decisions.labels(word.value)
        for why in ("malformed", "uncounted"):
            self._failures.labels(why)

    def decided(self, decisions: Iterable[Decision]) -> None:
        """A question was answered."""
        for one in decisions:
            self._decisions.labels(one.value).inc()

    def failed(self, why: str) -> None:
        """A question was not answered."""
        self._failures.labels(why).inc()

    def observe(self, *, keys: Callable[[], float], overflowed: Callable[[], float]) -> None:
        """Reads these whenever metrics are asked for."""
        self._keys.set_function(keys)
        self._overflowed.set_function(overflowed)

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self._registry)
