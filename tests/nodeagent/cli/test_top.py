"""nodeagent/cli/{rates,top}.py: rates from counters, and the frame that shows them."""

import time

import pytest

from nodeagent.cli.rates import Talk, rates, read, total
from tests.nodeagent.cli.conftest import Agent


def page(opened: int, closed: int, sent: int, *, failed: int = 0, peer: str = "api") -> str:
    labels = (
        f'reporter="source",source_workload="shop",source_workload_namespace="default",destination_workload="{peer}",'
        'destination_workload_namespace="default",destination_service="api.default.svc.cluster.local",connection_security_policy="mutual_tls"'
    )
    values = {"connections_opened": opened, "connections_closed": closed, "sent_bytes": sent, "connections_failed": failed}
    return "".join(f"# TYPE istio_tcp_{name}_total counter\nistio_tcp_{name}_total{{{labels}}} {value}\n" for name, value in values.items())


SHOP = Talk("default/shop", "outbound", "default/api", "mTLS")


def test_rates_are_what_happened_in_between() -> None:
    (one,) = rates(read(page(10, 8, 1000)), read(page(14, 9, 5000, failed=2)), 2.0)
    assert one.talk == SHOP
    assert (one.open, one.opened, one.failed, one.sent_bytes, one.received_bytes) == (5, 2.0, 1.0, 2000.0, 0.0)


def test_the_first_look_shows_what_is_open_and_no_rates() -> None:
    (one,) = rates({}, read(page(10, 8, 1000)), 0.0)
    assert (one.open, one.opened, one.sent_bytes) == (2, 0.0, 0.0)


def test_counters_that_began_anew() -> None:
    (one,) = rates(read(page(10, 8, 1000)), read(page(1, 0, 100)), 1.0)
    assert (one.opened, one.sent_bytes) == (1.0, 100.0)


def test_what_rests_is_left_out_and_the_busiest_is_first() -> None:
    assert rates(read(page(10, 10, 1000)), read(page(10, 10, 1000)), 1.0) == []
    before = read(page(1, 0, 0) + page(1, 0, 0, peer="db"))
    found = rates(before, read(page(1, 0, 10) + page(1, 0, 900, peer="db")), 1.0)
    assert [one.talk.peer for one in found] == ["default/db", "default/api"]
    assert total(found).sent_bytes == 910.0


def test_who_is_unknown_goes_by_the_service() -> None:
    (talk,) = read(page(1, 0, 0, peer="unknown"))
    assert talk.peer == "api.default.svc.cluster.local"


@pytest.mark.parametrize("moving", [True, False])
def test_one_frame(agent: Agent, monkeypatch: pytest.MonkeyPatch, *, moving: bool) -> None:
    agent.answers["/metrics"] = page(10, 8 if moving else 10, 1 << 20, failed=1 if moving else 0).encode()
    monkeypatch.setattr(time, "sleep", lambda _s: None)
    result = agent.run("top", "--once")
    assert result.exit_code == 0
    if moving:
        assert "2 connections open" in result.stdout
        assert "default/shop" in result.stdout
        assert "default/api" in result.stdout
    else:
        assert "nothing moves" in result.stdout
    assert [path for _, path, _ in agent.asked] == ["/metrics", "/metrics"]
