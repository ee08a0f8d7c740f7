"""control/envoy/incremental.py: answers are those of computing everything anew, and no more is computed than a change asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.envoy.incremental import Computation, CycleError


class Sheet:
    """Cells that stand on cells: `numbers` are inputs, `sums` name others."""

    def __init__(self, numbers: dict[int, int], sums: dict[int, tuple[int, ...]]) -> None:
        self.numbers = numbers
        self.sums = sums
        self.computation = Computation()
        self.ran: list[int] = []

    def number(self, cell: int) -> int:
        return self.numbers[cell]

    def total(self, cell: int) -> int:
        self.ran.append(cell)
        ask = self.computation.ask
        # What is asked depends on an answer: only sums of an even number look at all their cells.
        first = ask(self.number, cell)
        rest = self.sums.get(cell, ()) if first % 2 == 0 else ()
        return (first + sum(ask(self.total, other) for other in rest)) % 5

    def plainly(self, cell: int) -> int:
        first = self.numbers[cell]
        return (first + sum(self.plainly(other) for other in (self.sums.get(cell, ()) if first % 2 == 0 else ()))) % 5


CELLS = 8
numbers = st.fixed_dictionaries({cell: st.integers(0, 9) for cell in range(CELLS)})
sums = st.fixed_dictionaries({cell: st.lists(st.integers(0, cell - 1), max_size=3).map(tuple) for cell in range(1, CELLS)})


@given(numbers, sums, st.lists(st.tuples(st.integers(0, CELLS - 1), st.integers(0, 9)), max_size=12))
def test_always_what_computing_anew_gives(
    start: dict[int, int], structure: dict[int, tuple[int, ...]], changes: list[tuple[int, int]]
) -> None:
    sheet = Sheet(dict(start), structure)
    sheet.computation.hold(sheet.total, CELLS - 1)
    for cell, value in changes:
        assert sheet.computation.ask(sheet.total, CELLS - 1) == sheet.plainly(CELLS - 1)
        sheet.numbers[cell] = value
        sheet.computation.touch(sheet.number, cell)
    assert sheet.computation.ask(sheet.total, CELLS - 1) == sheet.plainly(CELLS - 1)
    sheet.computation.release(sheet.total, CELLS - 1)
    assert sheet.computation.size == 0, "nobody asks for anything any more"


def test_an_equal_answer_ends_a_change() -> None:
    sheet = Sheet({0: 1, 1: 0, 2: 0}, {1: (0,), 2: (1,)})
    held = sheet.computation.hold(sheet.total, 2)
    sheet.computation.ask(sheet.total, 2)
    sheet.ran.clear()
    since = held.changed
    sheet.numbers[0] = 11
    sheet.computation.touch(sheet.number, 0)
    assert not held.fresh
    assert sheet.computation.ask(sheet.total, 2) == 1
    assert sheet.ran == [0], "11 and 1 are the same for it"
    assert held.fresh
    assert held.changed == since


def test_what_nobody_looked_at_marks_nothing() -> None:
    sheet = Sheet({0: 1, 1: 0, 2: 0}, {1: (0,)})
    held = sheet.computation.hold(sheet.total, 2)
    sheet.computation.ask(sheet.total, 2)
    sheet.computation.touch(sheet.number, 0)
    assert held.fresh


def test_an_answer_that_did_not_change_is_the_one_that_it_was() -> None:
    """Whoever kept it sees by that whether there is news, also when another one has asked first."""
    held = [1]
    computation = Computation()

    def whole() -> int:
        return held[0]

    def made() -> list[int]:
        return [computation.ask(whole) % 2]

    computation.hold(made)
    first = computation.ask(made)
    for value, same in ((3, True), (4, False)):
        held[0] = value
        computation.touch(whole)
        computation.ask(made)
        assert (computation.ask(made) is first) == same


def test_an_answer_that_nobody_holds_is_not_kept() -> None:
    sheet = Sheet({0: 1, 1: 2}, {1: (0,)})
    assert sheet.computation.ask(sheet.total, 1) == 3
    assert sheet.computation.size == 0


def test_a_query_that_fails_is_tried_again() -> None:
    sheet = Sheet({0: 1, 1: 2}, {1: (0,)})
    sheet.computation.hold(sheet.total, 1)
    del sheet.numbers[0]
    with pytest.raises(KeyError):
        sheet.computation.ask(sheet.total, 1)
    sheet.numbers[0] = 4
    sheet.computation.touch(sheet.number, 0)
    assert sheet.computation.ask(sheet.total, 1) == 1


def test_asking_oneself_is_an_error() -> None:
    sheet = Sheet({1: 2}, {1: (1,)})
    with pytest.raises(CycleError):
        sheet.computation.ask(sheet.total, 1)
