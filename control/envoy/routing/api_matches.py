"""Conditions of the Gateway API's routes as Istio's, and which of several that a request meets comes first."""

import re

from control.envoy.routing.api_model import SeparatedPrefix
from control.kinds.gateway_routes import CallMatch, MethodMatch, PathMatch, RequestMatch, ValueMatch
from control.kinds.routing import HTTPMatch, StringMatch

Rank = tuple[int, int, int, int, int]
"""Less comes first: an exact path, a pattern, then the longest prefix; then a method, and the most headers and parameters."""
_NAME = "[^/]+"


def request_match(match: RequestMatch) -> HTTPMatch:
    """Of an HTTPRoute."""
    return HTTPMatch(
        uri=_path(match.path),
        method=StringMatch(exact=match.method) if match.method else None,
        headers=_values(match.headers, fold=True),
        query_params=_values(match.query_params, fold=False),
    )


def request_rank(match: RequestMatch) -> Rank:
    path = {"Exact": 0, "RegularExpression": 1}.get(match.path.type, 2)
    return (path, -len(match.path.value), not match.method, -len(match.headers), -len(match.query_params))


def call_match(match: CallMatch) -> HTTPMatch:
    """Of a GRPCRoute."""
    return HTTPMatch(uri=_call(match.method) if match.method is not None else None, headers=_values(match.headers, fold=True))


def call_rank(match: CallMatch) -> Rank:
    if match.method is None:
        return (3, 0, 0, -len(match.headers), 0)
    stated = len(match.method.service), len(match.method.method)
    return (match.method.type != "Exact", -stated[0], -stated[1], -len(match.headers), 0)


def _path(match: PathMatch) -> StringMatch | None:
    if match.type == "Exact":
        return StringMatch(exact=match.value)
    if match.type == "RegularExpression":
        return StringMatch(regex=match.value)
    prefix = match.value.rstrip("/")
    return SeparatedPrefix(prefix=prefix) if prefix else None


def _call(method: MethodMatch) -> StringMatch:
    if method.type == "Exact" and method.service and method.method:
        return StringMatch(exact=f"/{method.service}/{method.method}")
    if method.type == "Exact" and method.service:
        return StringMatch(prefix=f"/{method.service}/")
    service, name = (re.escape(one) if method.type == "Exact" else one for one in (method.service, method.method))
    return StringMatch(regex=f"/(?:{service or _NAME})/(?:{name or _NAME})")


def _values(matches: tuple[ValueMatch, ...], *, fold: bool) -> dict[str, StringMatch]:
    """Of two with one name the first counts, as the Gateway API has it; names of headers are the same in any case."""
    found: dict[str, StringMatch] = {}
    for one in matches:
        how = StringMatch(regex=one.value) if one.type == "RegularExpression" else StringMatch(exact=one.value)
        found.setdefault(one.name.lower() if fold else one.name, how)
    return found
