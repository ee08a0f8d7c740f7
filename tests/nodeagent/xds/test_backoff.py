"""Delays double, are bounded and shortened by chance."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.xds.backoff import Backoff


@given(st.floats(0, 1), st.integers(0, 40))
def test_delays_stay_between_half_and_all_of_the_doubled_time(chance: float, tries: int) -> None:
    backoff = Backoff(first_s=0.5, last_s=30, chance=lambda: chance)
    delays = [backoff.next_s() for _ in range(tries)]
    for number, delay_s in enumerate(delays):
        full_s = min(0.5 * 2**number, 30)
        assert full_s / 2 <= delay_s <= full_s
    backoff.reset()
    assert backoff.next_s() <= 0.5
