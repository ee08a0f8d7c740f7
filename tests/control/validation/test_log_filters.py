"""control/validation/log_filters.py: what may choose among lines; that Envoy takes it is tests/control/envoy/test_logging_rules.py's."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.validation.log_filters import FilterError, check_filter

GOOD = (
    "response.code >= 400",
    "response.code >= 400 && response.code < 500",
    "!(response.code == 200) || connection.mtls",
    "request.url_path.startsWith('/api') && request.method != \"GET\"",
    "'x-debug' in request.headers && request.headers['x-debug'] == 'on'",
    "request.duration > duration('250ms')",
    "xds.cluster_name == 'inbound-vip|80|http|cart.shop.svc.cluster.local'",
    "request.host.endsWith('.example') || request.useragent.contains('bot')",
    "has(request.referer) && !('x-quiet' in response.headers)",
    "connection.mtls == false",
    "true",
)
BAD = (
    ("", "no attribute|expected|missing"),
    ("response.code", "to be compared"),
    ("response.code >= '400'", "compares a number with a text"),
    ("request.path > 'a'", "compares numbers and durations"),
    ("response.nothing == 1", "no attribute"),
    ("response.code == 1 response.code == 2", "not expected"),
    ("(response.code == 1", "missing at the end"),
    ("request.path.matches('.*')", "there are startsWith"),
    ("request.headers[response.code] == 'a'", "named by a text"),
    ("request.path == 'a' # b", "not understood"),
    ("request.path == 'a\\'b'", "not understood"),
    ("request.path == 'é'", "one line of ASCII"),
    ("request.path == 'a\nb'", "one line of ASCII"),
    ("request.duration > duration('1 year')", "a duration is such as"),
    ("has(request.headers['a'])", "no attribute"),
    ("'a' in request.path", "a text may be in"),
    ("size(request.path) > 3", "expected"),
    ("!" * 30 + "true", "at most 20 deep"),
    ("true || " * 200 + "true", "at most 1024"),
)


@pytest.mark.parametrize("expression", GOOD)
def test_what_is_taken(expression: str) -> None:
    check_filter(expression)


@pytest.mark.parametrize(("expression", "why"), BAD, ids=[why for _, why in BAD])
def test_what_is_refused(expression: str, why: str) -> None:
    with pytest.raises(FilterError, match=why):
        check_filter(expression)


WORDS = (
    "response.code",
    "[",
    "]",
    "(",
    ")",
    "!",
    "&&",
    "'a'",
    "1",
    "has",
    "in",
    "duration",
    "==",
    "<",
    "true",
    "request.path",
    "startsWith",
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_whatever_is_written_is_taken_or_refused_and_nothing_else(words: list[str]) -> None:
    with suppress(FilterError):
        check_filter(" ".join(words))
