"""Regular expressions and durations are refused where Envoy would, or would take them for something else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.validation.durations import pause, positive, seconds
from control.validation.regex import MAX_CHARACTERS, regex, substitution


@pytest.mark.parametrize("text", ["", "(", "a{1001}", "(?<=a)b", r"\1", "x" * (MAX_CHARACTERS + 1), "a" * (1 << 20), r"\pL{15}"])
def test_expressions_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"regular expression|too costly"):
        regex(text)


@given(st.text(max_size=40))
@settings(max_examples=200)
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    try:
        assert regex(text) == text
    except ValueError:
        return


@pytest.mark.parametrize("text", [r"\2", "\\", r"\x", "a\\"])
def test_substitutions_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"group|digit"):
        substitution("(a)b", text)


def test_substitutions() -> None:
    assert substitution("(a)b", r"/\1/\0\\") == r"/\1/\0\\"


@pytest.mark.parametrize(("text", "expected"), [("5s", 5), ("1.5s", 1.5), ("100ms", 0.1), ("1h30m", 5400), ("0s", 0)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "5s\n", "1d", "99999999h", "\u0661s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|too long"):
        seconds(text)


def test_least_durations() -> None:
    assert pause("0s") == 0
    with pytest.raises(ValueError, match="less than a millisecond"):
        positive("0s")
    with pytest.raises(ValueError, match="less than a millisecond"):
        pause("1us")
