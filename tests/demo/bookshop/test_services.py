"""demo/bookshop/services.py: how a generous server reads paths, and what services make of each other."""

import json
from collections.abc import Mapping

import pytest

from demo.bookshop.chapters.security import WRITINGS
from demo.bookshop.exchange import Request, Response
from demo.bookshop.services import handed_on, served_path, service


@pytest.mark.parametrize("target", WRITINGS)
def test_the_page_is_generous(target: str) -> None:
    assert served_path(target) == "/admin"


@pytest.mark.parametrize(("target", "path"), [("/", "/"), ("/administration", "/administration"), ("/a/b?c=/admin", "/a/b"), ("", "/")])
def test_other_paths(target: str, path: str) -> None:
    assert served_path(target) == path


async def refuse(_name: str, _headers: Mapping[str, str]) -> Response:
    return Response(503, b"no healthy upstream")


async def rate(name: str, _headers: Mapping[str, str]) -> Response:
    return Response(200, json.dumps({"asked": name}).encode())


async def test_a_part_that_fails_is_left_out() -> None:
    said = await service("productpage", "v1")(Request("GET", "/", {}), refuse)
    assert said == {"details": {"status": 503}, "reviews": {"status": 503}}


async def test_who_asks_for_ratings() -> None:
    said = [await service("reviews", version)(Request("GET", "/", {}), rate) for version in ("v1", "v2", "v3")]
    assert [one["version"] for one in said] == ["v1", "v2", "v3"]
    assert [one.get("ratings") for one in said] == [None, *[{"status": 200, "asked": "ratings"}] * 2]


def test_what_is_handed_on() -> None:
    assert handed_on({"host": "page", "end-user": "ann", "authorization": "Bearer x"}) == {"end-user": "ann"}
