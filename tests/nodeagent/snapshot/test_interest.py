"""Subscriptions are counted, linger, and are bounded."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.snapshot.interest import Interest


def test_a_key_is_subscribed_once_and_given_up_after_it_has_been_idle() -> None:
    interest = Interest(linger_s=10)
    assert interest.need(["a", "b"]) == ["a", "b"]
    assert interest.need(["a"]) == []
    interest.drop(["a", "b"], now=0)
    assert interest.expire(9) == []
    assert interest.expire(10) == ["b"]
    interest.drop(["a"], now=20)
    assert interest.need(["a"]) == []
    assert interest.expire(100) == []


def test_what_an_earlier_run_asked_for_is_kept_for_a_while() -> None:
    interest = Interest(linger_s=10)
    interest.remember(["a", "b"], now=0)
    assert interest.need(["a"]) == []
    assert interest.expire(10) == ["b"]


def test_the_number_of_keys_is_bounded_and_room_is_used_again() -> None:
    interest = Interest(linger_s=1, max_keys=2)
    assert interest.need(["a", "b", "c"]) == ["a", "b"]
    interest.drop(["a", "c"], now=0)
    assert interest.expire(1) == ["a"]
    assert interest.need(["c"]) == ["c"]


@given(st.lists(st.tuples(st.sampled_from("nd"), st.sampled_from("abc")), max_size=40))
def test_subscribed_is_exactly_what_is_needed_or_idle(steps: list[tuple[str, str]]) -> None:
    interest = Interest(linger_s=5)
    counts = dict.fromkeys("abc", 0)
    subscribed: set[str] = set()
    for now, (verb, key) in enumerate(steps):
        if verb == "n":
            counts[key] += 1
            subscribed |= set(interest.need([key]))
        elif counts[key]:
            counts[key] -= 1
            interest.drop([key], now)
        subscribed -= set(interest.expire(now))
        assert {key for key, count in counts.items() if count} <= subscribed
    interest.drop([key for key, count in counts.items() for _ in range(count)], now=100)
    subscribed -= set(interest.expire(200))
    assert subscribed == set()
    assert len(interest) == 0
