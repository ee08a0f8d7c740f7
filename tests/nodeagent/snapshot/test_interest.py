"""Subscriptions are counted, linger, and are bounded."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.snapshot.interest import Interest


def test_a_key_is_subscribed_once_and_given_up_after_it_has_been_idle() -> None:
    interest = Interest(linger_s=10)
    assert interest.need(["a", "b"], make_room=True) == (["a", "b"], [])
    assert interest.need(["a"], make_room=True) == ([], [])
    interest.drop(["a", "b"], now=0)
    assert interest.expire(9) == ([], [])
    assert interest.expire(10) == ([], ["b"])
    interest.drop(["a"], now=20)
    assert interest.need(["a"], make_room=True) == ([], [])
    assert interest.expire(100) == ([], [])


def test_what_an_earlier_run_asked_for_is_kept_for_a_while() -> None:
    interest = Interest(linger_s=10)
    interest.remember(["a", "b"], now=0)
    assert interest.need(["a"], make_room=True) == ([], [])
    assert interest.expire(10) == ([], ["b"])


def test_at_the_limit_the_longest_idle_makes_room_and_nothing_that_is_needed() -> None:
    interest = Interest(linger_s=10, max_keys=2)
    assert interest.need(["a", "b"], make_room=True) == (["a", "b"], [])
    interest.drop(["b"], now=0)
    interest.drop(["a"], now=1)
    assert interest.need(["d"], make_room=False) == ([], [])
    assert interest.need(["d"], make_room=True) == (["d"], ["b"])
    assert interest.need(["c"], make_room=True) == (["c"], ["a"])
    assert interest.need(["e"], make_room=True) == ([], [])
    assert len(interest) == 2
    interest.drop(["c", "d", "d", "e"], now=2)
    assert interest.expire(12) == ([], ["c", "d"])
    assert len(interest) == 0


def test_a_key_that_found_no_room_is_subscribed_when_there_is_some() -> None:
    interest = Interest(linger_s=10, max_keys=1)
    assert interest.need(["a"], make_room=True) == (["a"], [])
    assert interest.need(["b", "c"], make_room=True) == ([], [])
    interest.drop(["a", "c"], now=0)
    assert interest.expire(1) == (["b"], ["a"])
    interest.drop(["b"], now=2)
    assert interest.expire(12) == ([], ["b"])


@given(st.lists(st.tuples(st.sampled_from("nd"), st.sampled_from("abcd"), st.booleans()), max_size=60), st.integers(1, 4))
def test_what_is_subscribed_is_needed_or_idle_and_never_too_much(steps: list[tuple[str, str, bool]], limit: int) -> None:
    interest = Interest(linger_s=5, max_keys=limit)
    counts = dict.fromkeys("abcd", 0)
    subscribed: set[str] = set()
    for now, (verb, key, make_room) in enumerate(steps):
        if verb == "n":
            counts[key] += 1
            fresh, gone = interest.need([key], make_room=make_room)
            assert not {key for key in gone if counts[key]}
            subscribed = (subscribed | set(fresh)) - set(gone)
        elif counts[key]:
            counts[key] -= 1
            interest.drop([key], now)
        fresh, gone = interest.expire(now)
        assert not {key for key in gone if counts[key]}
        subscribed = (subscribed | set(fresh)) - set(gone)
        needed = {key for key, count in counts.items() if count}
        assert len(subscribed) == len(interest) <= limit
        assert needed <= subscribed or (len(needed) > limit and subscribed <= needed)
    interest.drop([key for key, count in counts.items() for _ in range(count)], now=100)
    fresh, gone = interest.expire(200)
    assert not fresh
    subscribed -= set(gone)
    assert subscribed == set()
    assert len(interest) == 0
