"""A stream that sends without end is read at the pace, one that sends now and then at once."""

from control.xds.pace import KEYS_PER_REQUEST, Pace
from tests.control.fakes import FakeClock


def test_a_burst_is_read_at_once_and_what_follows_at_the_rate() -> None:
    clock = FakeClock(0)
    pace = Pace(clock, rate_per_s=8, burst=16)
    clock.now_s = 100
    assert [pace.wait_s() for _ in range(16)] == [0] * 16
    assert [pace.wait_s(), pace.wait_s()] == [0.125, 0.25]
    clock.now_s += 0.25
    assert pace.wait_s() == 0.125


def test_nothing_is_saved_up_beyond_the_burst() -> None:
    clock = FakeClock(0)
    pace = Pace(clock, rate_per_s=8, burst=8)
    clock.now_s = 1_000_000
    assert [pace.wait_s() > 0 for _ in range(9)] == [False] * 8 + [True]


def test_a_request_that_names_many_keys_counts_for_many() -> None:
    clock = FakeClock(0)
    pace = Pace(clock, rate_per_s=8, burst=16)
    clock.now_s = 100
    assert pace.wait_s(15 * KEYS_PER_REQUEST) == 0
    assert pace.wait_s(KEYS_PER_REQUEST - 1) == 0.125
