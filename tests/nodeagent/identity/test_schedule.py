"""Who is asked for next, when, and what failures and clocks that jump change about it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.identity.certificate import Issued
from nodeagent.identity.schedule import LAST_RETRY_S, LONGEST_WAIT_S, PAUSE_S, Schedule, State
from tests.nodeagent.identity.fakes import START_S
from tests.nodeagent.identity.pki import DAY_S

SLOTS = 4


def issued(identity: str, begin_s: float = START_S, lifetime_s: float = DAY_S) -> Issued:
    return Issued(identity, "", "", begin_s, begin_s + lifetime_s, 1)


def holding(*certificates: Issued) -> Schedule:
    schedule = Schedule(chance=lambda: 0.0)
    schedule.want([certificate.identity for certificate in certificates])
    for certificate in certificates:
        schedule.succeeded(certificate)
    return schedule


def states(schedule: Schedule, wall_s: float) -> dict[str, State]:
    return {entry.identity: entry.state for entry in schedule.states(wall_s)}


def test_who_waits_comes_before_who_renews_and_the_first_to_expire_before_the_others() -> None:
    schedule = holding(issued("late"), issued("soon", begin_s=START_S - 100))
    schedule.want(["late", "soon", "new"])
    due_s = START_S + DAY_S / 2
    assert schedule.start(due_s, 0, 2) == ["new", "soon"]
    assert schedule.start(due_s, 0, 2) == []
    schedule.succeeded(issued("new", begin_s=due_s))
    assert schedule.start(due_s, 0, 2) == ["late"]


def test_renewal_is_due_around_half_life() -> None:
    for chance, due_s in ((0.0, DAY_S * 0.5), (1.0, DAY_S * 0.4)):
        schedule = Schedule(chance=lambda chance=chance: chance)  # type: ignore[misc]
        schedule.want(["a"])
        schedule.succeeded(issued("a"))
        assert schedule.start(START_S + due_s - 1, 0, SLOTS) == []
        assert schedule.start(START_S + due_s, 0, SLOTS) == ["a"]


def test_what_has_just_come_is_not_renewed_without_a_pause() -> None:
    # The last minute of an issuer: its certificates begin a minute ago and end with it, so that half their life is over when they come.
    schedule = holding(issued("a", begin_s=START_S - 60, lifetime_s=90))
    schedule.pause("a", 0)
    assert schedule.start(START_S, PAUSE_S - 0.1, SLOTS) == []
    assert schedule.start(START_S, PAUSE_S, SLOTS) == ["a"]
    schedule.succeeded(issued("a", begin_s=START_S - 60, lifetime_s=90))
    schedule.pause("a", PAUSE_S)
    schedule.refused_by_peers("a", refused=True)
    assert schedule.start(START_S, PAUSE_S, SLOTS) == ["a"], "a revocation does not wait"


def test_a_failed_renewal_drops_nothing_and_is_tried_again() -> None:
    schedule = holding(issued("a"))
    due_s = START_S + DAY_S / 2
    assert schedule.start(due_s, 0, SLOTS) == ["a"]
    assert schedule.failed("a", "UNAVAILABLE", 0)
    assert schedule.issued("a") == issued("a")
    [state] = schedule.states(due_s)
    assert (state.state, state.failures, state.error) == (State.VALID, 1, "UNAVAILABLE")
    assert schedule.start(due_s, 0.49, SLOTS) == []
    assert schedule.start(due_s, 0.5, SLOTS) == ["a"]
    assert not schedule.failed("a", "UNAVAILABLE", 0.5)
    assert schedule.failed("a", "PERMISSION_DENIED", 1)


def test_a_pod_that_is_denied_over_and_over_does_not_stand_before_a_new_one() -> None:
    schedule = Schedule(chance=lambda: 0.0)
    schedule.want(["denied"])
    schedule.start(START_S, 0, 1)
    schedule.failed("denied", "PERMISSION_DENIED", 0)
    schedule.want(["denied", "zz-new"])
    assert schedule.start(START_S, 100, 1) == ["zz-new"]


def test_what_is_refused_by_peers_is_asked_for_at_once() -> None:
    schedule = holding(issued("a"), issued("b"))
    schedule.refused_by_peers("b", refused=True)
    assert states(schedule, START_S) == {"a": State.VALID, "b": State.REFUSED}
    assert schedule.start(START_S, 0, SLOTS) == ["b"]


def test_the_clock_goes_a_week_ahead_and_comes_back() -> None:
    schedule = holding(issued("a"), issued("b"))
    week_s = START_S + 7 * DAY_S
    assert set(states(schedule, week_s).values()) == {State.EXPIRED}
    assert schedule.start(week_s, 0, SLOTS) == ["a", "b"]
    for identity in ("a", "b"):
        schedule.failed(identity, "is valid from ..., and now is ...", 0)
    assert set(states(schedule, START_S + 60).values()) == {State.VALID}
    assert schedule.start(START_S + 60, 100, SLOTS) == []


def test_the_clock_goes_an_hour_back() -> None:
    schedule = holding(issued("a"))
    assert states(schedule, START_S - 3600) == {"a": State.EXPIRED}
    assert schedule.wait_s(START_S, 0) <= LONGEST_WAIT_S


def test_all_expired_at_once_recover_within_a_minute_a_few_at_a_time() -> None:
    names = [f"id-{number}" for number in range(200)]
    schedule = holding(*(issued(name) for name in names))
    wall_s, now_s, most = START_S + 2 * DAY_S, 0.0, 0
    for name in schedule.start(wall_s, now_s, SLOTS):
        schedule.failed(name, "UNAVAILABLE", now_s)
    while State.EXPIRED in states(schedule, wall_s).values():
        started = schedule.start(wall_s, now_s, SLOTS)
        most = max(most, len(started))
        for name in started:
            schedule.succeeded(issued(name, begin_s=wall_s))
        step_s = 0.1 if started else max(schedule.wait_s(wall_s, now_s), 0.01)
        wall_s, now_s = wall_s + step_s, now_s + step_s
    assert most == SLOTS
    assert now_s < 60


def test_what_no_longer_runs_here_is_forgotten() -> None:
    schedule = holding(issued("a"), issued("b"))
    assert schedule.want(["b", "c"]) == ["a"]
    assert not schedule.wants("a")
    schedule.failed("a", "late answer", 0)
    assert states(schedule, START_S) == {"b": State.VALID, "c": State.WAITING}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.floats(-4000, 100_000)), max_size=60))
def test_nothing_waits_longer_than_the_last_delay_and_no_certificate_is_lost(script: list[tuple[str, bool, float]]) -> None:
    schedule = Schedule(chance=lambda: 0.0)
    schedule.want("abcdef")
    wall_s, now_s = START_S, 0.0
    held: dict[str, Issued] = {}
    for _, works, jump_s in script:
        wall_s += jump_s
        now_s += LAST_RETRY_S
        started = schedule.start(wall_s, now_s, SLOTS)
        for identity in started:
            if works:
                held[identity] = issued(identity, begin_s=wall_s - 60)
                schedule.succeeded(held[identity])
            else:
                schedule.failed(identity, "no", now_s)
        assert {identity: schedule.issued(identity) for identity in held} == held
        assert 0 <= schedule.wait_s(wall_s, now_s) <= LONGEST_WAIT_S
    for _ in range(2):
        now_s += LAST_RETRY_S
        for identity in schedule.start(wall_s, now_s, len("abcdef")):
            schedule.succeeded(issued(identity, begin_s=wall_s - 60))
    assert set(states(schedule, wall_s).values()) == {State.VALID}
