"""What the services of the bookshop answer: each a function of a request and of whom it may ask."""

import asyncio
import json
import posixpath
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from demo.bookshop.exchange import Request, Response

PORT: Final = 9080
B3: Final = tuple(f"x-b3-{name}" for name in ("traceid", "spanid", "parentspanid", "sampled", "flags"))
HANDED_ON: Final = ("end-user", "x-request-id", "traceparent", "tracestate", *B3)
"""Headers of a request that the calls bear which are made for it."""
ADMIN: Final = "/admin"
STARS: Final = {"v1": "no stars", "v2": "black stars", "v3": "red stars"}

Ask = Callable[[str, Mapping[str, str]], Awaitable[Response]]
"""Asks a service of this name on behalf of a request with these headers."""
Service = Callable[[Request, Ask], Awaitable[dict[str, Any]]]


def served_path(target: str) -> str:
    """The path as many frameworks read it: decoded, without parameters, with single slashes and no dots."""
    decoded = unquote(target.partition("?")[0]).replace("\\", "/")
    segments = (segment.partition(";")[0] for segment in decoded.split("/"))
    return posixpath.normpath("/" + "/".join(segment for segment in segments if segment))


async def page(request: Request, ask: Ask) -> dict[str, Any]:
    """Asks two services at once, and shows what came; a part that fails is left out, as in any shop."""
    if served_path(request.target) == ADMIN:
        return {"secret": "the takings of the day"}
    details, reviews = await asyncio.gather(ask("details", request.headers), ask("reviews", request.headers))
    return {"details": _part(details), "reviews": _part(reviews)}


async def details(_request: Request, _ask: Ask) -> dict[str, Any]:
    return {"author": "William Shakespeare", "pages": 200}


def reviews(version: str) -> Service:
    """Those of `v2` and `v3` ask for ratings."""

    async def answer(request: Request, ask: Ask) -> dict[str, Any]:
        said = {"version": version, "stars": STARS[version]}
        return said if version == "v1" else {**said, "ratings": _part(await ask("ratings", request.headers))}

    return answer


async def ratings(_request: Request, _ask: Ask) -> dict[str, Any]:
    return {"ratings": [5, 4]}


def service(name: str, version: str) -> Service:
    """The one that a pod runs."""
    return reviews(version) if name == "reviews" else {"productpage": page, "details": details, "ratings": ratings}[name]


def handed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in HANDED_ON if name in headers}


def _part(response: Response) -> dict[str, Any]:
    said = json.loads(response.body) if response.status == 200 else {}
    return {"status": response.status, **said}
