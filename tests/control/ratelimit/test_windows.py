"""control/ratelimit/windows.py: counts are exact while there is room, never too low without it, and memory is bounded."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from control.ratelimit.limits import Unit
from control.ratelimit.windows import SHARE, Windows

START_S = 1_700_000_000.0
steps = st.lists(
    st.tuples(
        st.sampled_from([Unit.SECOND, Unit.MINUTE]),
        st.integers(0, 30),
        st.integers(0, 3),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.3, 1.0, 59.0, -2.0]),
    ),
    max_size=120,
)


@settings(max_examples=150)
@given(steps, st.sampled_from([4, 1000]))
def test_a_count_is_never_below_the_truth(taken: list[tuple[Unit, int, int, int, float]], max_keys: int) -> None:
    windows, truth, newest = Windows(max_keys), Counter[tuple[object, ...]](), dict.fromkeys(Unit, 0)
    now_s = START_S
    for unit, number, group, hits, step_s in taken:
        now_s += step_s
        newest[unit] = max(newest[unit], int(now_s // unit.seconds))
        key = (unit, newest[unit], group, number)
        truth[key] += hits
        counted = windows.add(unit, bytes([group, number]), bytes([group]), hits, now_s)
        assert counted >= truth[key]
        # With room for all it is the truth itself.
        assert max_keys == 4 or counted == truth[key]


def test_windows_end_together() -> None:
    windows = Windows()
    assert [windows.add(Unit.MINUTE, b"a", b"g", 1, START_S) for _ in range(3)] == [1, 2, 3]
    assert windows.add(Unit.HOUR, b"a", b"g", 1, START_S) == 1
    assert windows.add(Unit.MINUTE, b"b", b"g", 1, START_S) == 1
    later_s = START_S + 60
    assert windows.keys(later_s) == 1
    assert windows.add(Unit.MINUTE, b"a", b"g", 1, later_s) == 1
    assert windows.add(Unit.HOUR, b"a", b"g", 1, later_s) == 2


def test_a_clock_that_steps_back_gives_nothing_again() -> None:
    windows = Windows()
    assert windows.add(Unit.SECOND, b"a", b"g", 5, START_S) == 5
    assert windows.add(Unit.SECOND, b"a", b"g", 1, START_S - 3600) == 6


def test_a_flood_of_keys_grows_nothing_and_gives_nobody_more() -> None:
    room = 100
    windows = Windows(room)
    assert windows.add(Unit.DAY, b"before", b"flooded", 1, START_S) == 1
    counts = [windows.add(Unit.DAY, b"%d" % number, b"flooded", 1, START_S) for number in range(10_000)]
    assert windows.keys(START_S) == room // SHARE + 1
    # Whoever comes with yet another key meets what all of them used.
    assert counts[-1] == 10_000 - (room // SHARE - 1)
    assert windows.overflowed == counts[-1]
    # Who was there before, and those of another rule, are counted as ever.
    assert windows.add(Unit.DAY, b"before", b"flooded", 1, START_S) == 2
    assert windows.add(Unit.DAY, b"x", b"other", 1, START_S) == 1


def test_a_flood_in_every_rule_is_bounded_too() -> None:
    windows = Windows(64)
    for number in range(20_000):
        windows.add(Unit.DAY, b"%d" % number, b"g%d" % (number % 9000), 1, START_S)
    assert windows.keys(START_S) <= 64 + 4097
    # Even of the shared counters there are so many and no more, and the last one is for all the rest.
    assert windows.add(Unit.DAY, b"new", b"new", 1, START_S) > 1000
