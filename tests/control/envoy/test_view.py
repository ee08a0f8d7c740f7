"""control/envoy/view.py: an error of ours in one resource keeps nothing else from its proxy."""

import pytest

from control.envoy import endpoints, waypoint
from control.envoy.built import CLUSTER, ENDPOINTS
from control.envoy.view import ProxyView, recipes
from tests.control.envoy.test_waypoint import CLUSTER_NAME, Served, pod, service


def broken(*_: object) -> None:
    raise RuntimeError("a fault of ours")


@pytest.fixture
def served() -> Served:
    found = Served()
    found.write("cart.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"))
    return found


def test_a_resource_that_can_not_be_made_keeps_its_last_form(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    before = served.view.get(ENDPOINTS, CLUSTER_NAME)
    with monkeypatch.context() as patch:
        patch.setattr(endpoints, "chosen_endpoints", broken)
        changes = served.write("more.yaml", pod("cart-2", "cart", "10.0.0.2"), service("other", "10.96.0.2"))
        assert served.view.get(ENDPOINTS, CLUSTER_NAME) == before
        assert list(served.view.failed.values()) == ["RuntimeError: a fault of ours"] * 2
        assert CLUSTER_NAME.replace("cart", "other") in changes[-1][CLUSTER], "what can be made is served"
    served.write("third.yaml", pod("cart-3", "cart", "10.0.0.3"), pod("other-1", "other", "10.0.0.4"))
    assert served.view.failed == {}
    (locality,) = served.of(ENDPOINTS)[CLUSTER_NAME].endpoints
    assert len(locality.lb_endpoints) == 3


def test_news_reach_every_view_whoever_asked_first(served: Served) -> None:
    """Two Envoys of one Gateway at other addresses, and whoever looked at the world before either."""
    other = ProxyView(served.world, served.view.key, ("192.0.2.1",))
    told: list[dict[str, tuple[str, ...]]] = []
    other.watch(lambda changes: told.append(dict(changes)))
    served.write("more.yaml", service("other", "10.96.0.2"), pod("cart-2", "cart", "10.0.0.2"))
    served.world.ask(recipes, other.key, other.listen)
    other.refresh()
    assert set(other.names(CLUSTER)) == set(served.view.names(CLUSTER))
    assert CLUSTER_NAME in told[-1][ENDPOINTS]
    assert other.get(ENDPOINTS, CLUSTER_NAME) == served.view.get(ENDPOINTS, CLUSTER_NAME)


def test_a_list_that_can_not_be_made_leaves_what_was_there(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(served.view.names(CLUSTER))
    with monkeypatch.context() as patch:
        patch.setattr(waypoint, "layers", broken)
        served.write("more.yaml", service("other", "10.96.0.2"))
        assert set(served.view.names(CLUSTER)) == before
        assert list(served.view.failed.values()) == ["RuntimeError: a fault of ours"]
    served.write("third.yaml", service("third", "10.96.0.3"))
    assert served.view.failed == {}
    assert len(served.view.names(CLUSTER)) == len(before) + 2
