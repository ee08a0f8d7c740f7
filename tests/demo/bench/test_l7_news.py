"""demo/bench/l7_news.py: a real Envoy hears of every change, here of a few."""

from demo.bench.l7_news import acknowledged_s


def test_of_a_few_changes() -> None:
    told_s = acknowledged_s(lambda _text: None, services=3, changes=2)
    assert len(told_s) == 2
    assert all(0 < one < 60 for one in told_s), told_s
