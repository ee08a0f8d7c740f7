"""Totals that outlive the rules that count."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.enrolment.tally import Tallied, Tally
from nodeagent.linux.nftables import Counter

NAMES = ("open", "open-out", "outside", "excluded", "past-out", "marked", "reset")


def counters(**packets: int) -> dict[str, Counter]:
    return {name.replace("_", "-"): Counter(count, 0) for name, count in packets.items()}


def test_each_counter_has_its_total() -> None:
    tally = Tally(counters(open=1, open_out=2, outside=4, excluded=8, past_out=16, marked=32, reset=64))
    assert tally.totals() == {Tallied.OPENLY: 3, Tallied.OUTSIDE: 4, Tallied.EXCLUDED: 24, Tallied.MARKED: 32}
    assert Tally({}).totals() == dict.fromkeys(Tallied, 0)


@given(st.lists(st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 99)), max_size=4), max_size=4))
def test_rules_that_begin_anew_take_nothing_back(lives: list[list[dict[str, int]]]) -> None:
    """Each life counts up; with the next one the counters begin at nothing, or are not there for a while."""
    tally = Tally({})
    expected = dict.fromkeys(NAMES, 0)
    for steps in lives:
        now = dict.fromkeys(NAMES, 0)
        for step in steps:
            for name, more in step.items():
                now[name] += more
                expected[name] += more
            tally.add({name: Counter(count, 0) for name, count in now.items()})
        tally.add({})
    totals = tally.totals()
    assert totals[Tallied.OPENLY] == expected["open"] + expected["open-out"]
    assert totals[Tallied.OUTSIDE] == expected["outside"]
    assert totals[Tallied.EXCLUDED] == expected["excluded"] + expected["past-out"]
    assert totals[Tallied.MARKED] == expected["marked"]
