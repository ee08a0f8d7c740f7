"""demo/bench/l7_config.py: it measures what it says, here of a few services."""

from demo.bench.l7_config import built_figures

SERVICES = 3


def test_of_a_few_services() -> None:
    figures, more = (built_figures(lambda _text: None, services, changes=4) for services in (SERVICES, 2 * SERVICES))
    assert all(value > 0 for value in figures.values()), figures
    of_one = 5  # routes, and of each subset a cluster and its endpoints
    assert more[f"{2 * SERVICES} services: resources"] - figures[f"{SERVICES} services: resources"] == SERVICES * of_one
    assert figures["one endpoint: resources that are sent"] == 1
