"""nodeagent/enrolment/troubles.py: what failed waits ever longer, and is told of once."""

from nodeagent.enrolment.troubles import Troubles


def test_each_wait_is_twice_the_former_up_to_a_longest() -> None:
    troubles = Troubles()
    waits = []
    for _ in range(12):
        troubles.add("a", "no memory", 100.0)
        waits.append(round(troubles.times_s[0] - 100.0, 3))
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == max(waits) == 15.0


def test_it_is_held_back_until_then() -> None:
    troubles = Troubles()
    troubles.add("a", "no memory", 100.0)
    assert troubles.held_back(100.05) == {"a"}
    assert troubles.held_back(100.1) == set()


def test_the_same_problem_is_no_news() -> None:
    troubles = Troubles()
    assert [troubles.add("a", problem, 0.0) for problem in ("x", "x", "y")] == [True, False, True]
    assert (troubles.problem("a"), troubles.problem("b")) == ("y", "")


def test_what_was_done_or_is_not_known_any_more_is_forgotten() -> None:
    troubles = Troubles()
    for uid in "abc":
        troubles.add(uid, "x", 0.0)
    troubles.end("a")
    troubles.end("never failed")
    troubles.keep({"b": 1}, set())
    assert [bool(troubles.problem(uid)) for uid in "abc"] == [False, True, False]
    troubles.end("b")
    assert troubles.add("b", "x", 0.0), "it begins anew"
