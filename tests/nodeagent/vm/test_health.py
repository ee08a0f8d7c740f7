"""How many probes make a verdict, against a reference that looks at the whole history."""

from hypothesis import given
from hypothesis import strategies as st

from meshapi.attendance import Health, Probe, TCPSocket
from nodeagent.vm.health import HealthState, Verdict


def reference(history: list[bool], probe: Probe) -> Health:
    """What the last run that was long enough says."""
    for end in range(len(history), 0, -1):
        run = 0
        while run < end and history[end - 1 - run] == history[end - 1]:
            run += 1
        if run >= (probe.success_threshold if history[end - 1] else probe.failure_threshold):
            return Health.HEALTHY if history[end - 1] else Health.UNHEALTHY
    return Health.UNKNOWN


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_a_verdict_takes_as_many_in_a_row_as_were_asked_for(history: list[bool], successes: int, failures: int) -> None:
    probe = Probe(TCPSocket(1), success_threshold=successes, failure_threshold=failures)
    state = HealthState(probe, 0.0)
    for index, well in enumerate(history):
        before = state.verdict
        assert state.found(None if well else "refused") == (state.verdict != before)
        assert state.verdict.health is reference(history[: index + 1], probe)


def test_times() -> None:
    state = HealthState(Probe(TCPSocket(1), initial_delay_s=5, period_s=10), 100.0)
    assert state.wait_s(102.0) == 3.0
    state.begin(105.0)
    assert state.wait_s(106.0) == 9.0
    assert state.wait_s(130.0) == 0.0, "one that took long is followed at once"


def test_the_last_reason_is_told() -> None:
    state = HealthState(Probe(TCPSocket(1), failure_threshold=2), 0.0)
    state.found("refused")
    state.found("no answer")
    assert state.verdict == Verdict(Health.UNHEALTHY, "no answer")
