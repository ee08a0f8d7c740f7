"""demo/bookshop/spans.py and the collector: what is told becomes trees, whatever order it comes in."""

import json
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from demo.bookshop.collector import Collector
from demo.bookshop.exchange import Request
from demo.bookshop.spans import Span, read, tree


def told(key: str, parent: str, host: str) -> dict[str, Any]:
    return {"traceId": "t", "id": key, "parentId": parent, "duration": 1500, "tags": {"http.url": f"http://{host}/x"}}


def test_a_visit() -> None:
    spans = read([told("4", "3", "ratings"), told("1", "", "productpage"), told("3", "1", "reviews"), told("2", "1", "details")])
    assert [(depth, one.service, one.took_ms) for depth, one in tree(spans)] == [
        (0, "productpage", 1.5),
        (1, "details", 1.5),
        (1, "reviews", 1.5),
        (2, "ratings", 1.5),
    ]


@given(st.lists(st.integers(0, 20), max_size=20), st.randoms())
def test_every_span_is_shown_once_below_its_parent(parents: list[int], order: Random) -> None:
    spans = [Span("t", str(key), str(parent % key) if key else "gone", str(key), 1.0) for key, parent in enumerate(parents)]
    order.shuffle(spans)
    shown = tree(spans)
    assert sorted(one.key for _, one in shown) == sorted(one.key for one in spans)
    depths = {one.key: depth for depth, one in shown}
    assert all(depths[one.key] == depths.get(one.parent, -1) + 1 for one in spans)


async def test_the_collector() -> None:
    collector = Collector()
    answers = [await collector.take(Request("POST", "/", {}, body)) for body in (b'[{"id": "1"}]', b"nonsense", b'[{"id": "2"}]', b"{}")]
    assert [one.status for one in answers] == [202, 400, 202, 400]
    assert json.loads((await collector.show(Request("GET", "/", {}))).body) == [{"id": "1"}, {"id": "2"}]
