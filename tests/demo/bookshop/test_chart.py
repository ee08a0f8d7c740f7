"""demo/bookshop/chart.py: what people see of counts."""

from hypothesis import given
from hypothesis import strategies as st

from demo.bookshop.chart import WIDTH, bars, rows, six_sigma


def test_bars_are_as_long_as_their_share() -> None:
    assert bars({"v1": 90, "v2": 10, "v3": 0}).splitlines() == [f"v1  {'█' * 45} 90", f"v2  {'█' * 5} 10", "v3  0"]


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(0, 10**9)))
def test_what_is_counted_is_seen(counts: dict[str, int]) -> None:
    lines = bars(counts).splitlines()
    assert len(lines) == len(counts)
    for line, count in zip(lines, counts.values(), strict=True):
        assert line.endswith(f" {count}")
        assert ("█" in line) == (count > 0)
        assert line.count("█") <= WIDTH


def test_columns_are_aligned() -> None:
    assert rows(("path", "answer"), [("/admin", 403), ("/", 200)]).splitlines() == ["path    answer", "/admin  403", "/       200"]


def test_the_margin_of_a_count() -> None:
    assert six_sigma(600, 0.1) == 6 * (600 * 0.1 * 0.9) ** 0.5
    assert six_sigma(600, 0.0) == 0
