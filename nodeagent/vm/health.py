"""Whether a workload is healthy, by what its probe found: a state machine without I/O, as the kubelet counts."""

from msgspec import Struct

from meshapi.attendance import Health, Probe


class Verdict(Struct, frozen=True):
    """`message` says what the last probe found wrong."""

    health: Health = Health.UNKNOWN
    message: str = ""


class HealthState:
    """`now_s` is of a monotonic clock."""

    def __init__(self, probe: Probe, now_s: float) -> None:
        self.probe = probe
        self.verdict = Verdict()
        self._due_s = now_s + probe.initial_delay_s
        self._run = 0
        """How many probes in a row went the same way: above 0 well, below 0 badly."""

    def wait_s(self, now_s: float) -> float:
        """Until the next probe is to begin."""
        return max(0.0, self._due_s - now_s)

    def begin(self, now_s: float) -> None:
        """A probe begins: the next one a period later, or at once if that is over when this one ends."""
        self._due_s = now_s + self.probe.period_s

    def found(self, problem: str | None) -> bool:
        """Takes a result, None for well; whether the verdict is another now."""
        before = self.verdict
        if problem is None:
            self._run = max(self._run, 0) + 1
            if self._run >= self.probe.success_threshold:
                self.verdict = Verdict(Health.HEALTHY)
        else:
            self._run = min(self._run, 0) - 1
            if -self._run >= self.probe.failure_threshold:
                self.verdict = Verdict(Health.UNHEALTHY, problem)
        return self.verdict != before
