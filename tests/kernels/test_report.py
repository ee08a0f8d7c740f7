"""A run in a virtual machine passes by nothing but a complete verdict of its own."""

from collections.abc import Sequence

import pytest

from tests.kernels.report import Step, Verdict, judge

STAGES = ("one", "two")
STEPS = (Step("one", "first", 0.1), Step("two", "second", 0.2))
VERDICT = Verdict("n", "6.1", STAGES, 2)


def lines(steps: Sequence[Step] = STEPS, verdict: Verdict = VERDICT) -> list[str]:
    return ["something of the kernel's", *(step.line() for step in steps), verdict.line(), "reboot: Power down"]


def test_a_complete_run_passes() -> None:
    assert judge(lines(), nonce="n", stages=STAGES) == []


@pytest.mark.parametrize(
    ("console", "word"),
    [
        ([], "without a verdict"),
        (lines()[:-2], "without a verdict"),
        (lines(verdict=Verdict("another", "6.1", STAGES, 2)), "without a verdict"),
        ([*lines(), VERDICT.line()], "without a verdict"),
        (lines(steps=STEPS[:1]), "2 steps, 1 arrived"),
        (lines(verdict=Verdict("n", "6.1", ("one",), 2)), "not run to the end: two"),
        (lines(steps=(STEPS[0], Step("two", "second", 0.2, "OSError: no"))), "two: second: OSError: no"),
    ],
)
def test_anything_else_does_not(console: list[str], word: str) -> None:
    assert any(word in problem for problem in judge(console, nonce="n", stages=STAGES))
