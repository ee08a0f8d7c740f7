"""control/analysis/unreachable.py: what a condition is said to cover is met by nothing else."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from control.analysis.unreachable import covers
from control.kinds.routing import HTTPMatch, StringMatch

TEXTS = ("/", "/a", "/A", "/a/b", "/ab", "/b")
HOW = st.sampled_from(["exact", "prefix", "regex"])
TEXT = st.builds(lambda how, text: {how: text}, HOW, st.sampled_from(TEXTS))
HEADERS = st.dictionaries(st.sampled_from(["x", "y"]), st.one_of(TEXT, st.just({})), max_size=2)
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "uri": TEXT,
        "ignoreUriCase": st.booleans(),
        "method": st.builds(lambda text: {"exact": text}, st.sampled_from(["GET", "PUT"])),
        "headers": HEADERS,
        "withoutHeaders": HEADERS,
        "port": st.sampled_from([80, 81]),
        "sourceNamespace": st.sampled_from(["a", "b"]),
    },
)
REQUESTS = [
    {"path": path, "method": method, "headers": headers, "port": port, "namespace": namespace}
    for path in (*TEXTS, "/q")
    for method in ("GET", "PUT")
    for headers in ({}, {"x": "/a"}, {"x": "/a/b", "y": "/"}, {"y": "/b"})
    for port in (80, 81)
    for namespace in ("a", "b")
]


@given(MATCHES, MATCHES)
@settings(max_examples=150, deadline=None)
def test_whatever_meets_the_covered_one_meets_the_other(first: dict[str, Any], second: dict[str, Any]) -> None:
    outer, inner = (msgspec.convert(one, HTTPMatch) for one in (first, second))
    assert covers(inner, inner)
    if covers(outer, inner):
        assert [one for one in REQUESTS if meets(inner, one) and not meets(outer, one)] == []


def meets(match: HTTPMatch, request: dict[str, Any]) -> bool:
    path, uri = request["path"], match.uri
    if uri is not None and not text(uri, path, fold=match.ignore_uri_case):
        return False
    headers = request["headers"]
    return (
        (match.method is None or text(match.method, request["method"]))
        and all(name in headers and (one.presence or text(one, headers[name])) for name, one in match.headers.items())
        and not any(name in headers and (one.presence or text(one, headers[name])) for name, one in match.without_headers.items())
        and match.port in {0, request["port"]}
        and match.source_namespace in {"", request["namespace"]}
    )


def text(match: StringMatch, value: str, *, fold: bool = False) -> bool:
    def same(one: str) -> str:
        return one.lower() if fold else one

    if match.exact is not None:
        return same(value) == same(match.exact)
    if match.prefix is not None:
        return same(value).startswith(same(match.prefix))
    return same(value) == same(match.regex or "")
