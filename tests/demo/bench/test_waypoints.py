"""demo/bench/waypoints.py: every lane answers and is measured, here for a moment; each waypoint really is in the way."""

import pytest

from demo.bench.results import Comparison, Figures
from demo.bench.waypoints import BY_HAND, DRIVEN, STRAIGHT, UNCOUNTED, hop, http_metrics


@pytest.mark.timeout(120)
def test_for_a_moment() -> None:
    metrics = http_metrics(0.3, 50)
    compared, added = hop(lambda _text: None, 1, metrics)
    assert isinstance(compared, Comparison)
    assert isinstance(added, Figures)
    assert all(compared.figures[(lane, one.name)] > 0 for lane in (STRAIGHT, DRIVEN, UNCOUNTED, BY_HAND) for one in metrics)
    costs = [one.cost.name for one in metrics if one.cost is not None]
    assert all(compared.figures[(lane, name)] > 0 for lane in (DRIVEN, UNCOUNTED, BY_HAND) for name in costs), "their Envoys worked for it"
    assert len(added.values) == 6
