"""control/waypoint/limit_metrics.py: Envoy's statistics of limits by RateLimit, whatever else their names hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.waypoint.limit_metrics import NAME, limit_metrics


def told(*statistics: tuple[str, int]) -> dict[str, int]:
    answer = {"stats": [*({"name": name, "value": value} for name, value in statistics), {"histograms": {"supported_quantiles": [1]}}]}
    lines = limit_metrics(json.dumps(answer).encode()).decode().splitlines()
    assert [line.split()[:3] for line in lines[:2]] == ([["#", "HELP", NAME], ["#", "TYPE", NAME]] if lines else [])
    return {line.rpartition(" ")[0].removeprefix(NAME): int(line.rpartition(" ")[2]) for line in lines[2:]}


def test_local_and_global_limits() -> None:
    assert told(
        ("rate_limit.shop.cart.http_local_rate_limit.ok", 7),
        ("rate_limit.shop.cart.http_local_rate_limit.rate_limited", 2),
        ("rate_limit.shop.cart.http_local_rate_limit.enforced", 2),
        ("cluster.inbound-vip|80|http|a.shop.svc.cluster.local.ratelimit.rate_limit.shop.all.v2.ok", 3),
        ("cluster.inbound-vip|80|http|b.shop.svc.cluster.local.ratelimit.rate_limit.shop.all.v2.ok", 1),
        ("cluster.inbound-vip|80|http|b.shop.svc.cluster.local.ratelimit.rate_limit.shop.all.v2.over_limit", 5),
        ("cluster.other.upstream_rq_total", 5),
    ) == {
        '{rate_limit="shop/all.v2",result="passed"}': 4,
        '{rate_limit="shop/all.v2",result="refused"}': 5,
        '{rate_limit="shop/cart",result="passed"}': 7,
        '{rate_limit="shop/cart",result="refused"}': 2,
    }


def test_what_is_let_go_is_not_refused() -> None:
    prefix = "cluster.a.ratelimit.rate_limit.shop.all"
    assert told((f"{prefix}.error", 5), (f"{prefix}.failure_mode_allowed", 3)) == {
        '{rate_limit="shop/all",result="let_go"}': 3,
        '{rate_limit="shop/all",result="uncounted"}': 2,
    }


def test_nothing_where_there_is_nothing() -> None:
    assert told() == told(("server.live", 1)) == {}


@pytest.mark.parametrize("answer", [b"", b"no json", b"[]", b'{"stats": 7}', b'{"stats": [7]}', b'{"stats": [{"name": 7}]}', b"\xff"])
def test_an_answer_that_is_none(answer: bytes) -> None:
    assert limit_metrics(answer) == b""


@given(st.lists(st.tuples(st.text(max_size=40) | st.from_regex(r".*rate_limit\..*\.ok", fullmatch=True), st.integers(0, 9)), max_size=5))
def test_no_name_breaks_the_lines(statistics: list[tuple[str, int]]) -> None:
    for labels in told(*statistics):
        assert labels.count('"') == 4
