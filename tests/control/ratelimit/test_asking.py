"""control/ratelimit/asking.py: what is counted together and what apart, and what Envoy is told."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.envoy.messages import message_class, new, pool
from control.ratelimit.asking import MAX_HITS, Ask, Decision, MalformedError, answer, asks
from control.ratelimit.config import domains
from control.ratelimit.limits import Entry, Limit, Unit, Unlimited

NOW_S = 1_700_000_000.5
FILES = domains(
    {
        "a.yaml": """
domain: shop
descriptors:
  - {key: user, rate_limit: {unit: minute, requests_per_unit: 5, name: usual}}
  - {key: vip, rate_limit: {unlimited: true, replaces: [{name: usual}]}}
"""
    }
)


def body(domain: str, *descriptors: list[Entry], **more: Any) -> bytes:
    found = [{"entries": [{"key": key, "value": value} for key, value in entries]} for entries in descriptors]
    return bytes(new("envoy.service.ratelimit.v3.RateLimitRequest", domain=domain, descriptors=found, **more).SerializeToString())


def stated(limit: str, *entries: Entry) -> list[Entry]:
    return [("limit", limit), ("place", "here"), ("rule", "shop/a/0"), *entries]


def test_a_rate_limit_says_itself_what_it_is() -> None:
    (found,) = asks(body("nodemesh.io/shop/a", stated("20/minute", ("0", "ann"))), {})
    assert (found.rule, found.hits) == (Limit(20, Unit.MINUTE), 1)


def test_a_limit_that_changes_gives_nobody_a_fresh_start() -> None:
    before, after, other = (asks(body("nodemesh.io/a/b", stated(one, ("0", "x"))), {})[0] for one in ("1/day", "2/day", "2/hour"))
    assert before.key == after.key == other.key
    assert [one.rule for one in (before, after)] == [Limit(1, Unit.DAY), Limit(2, Unit.DAY)]


@pytest.mark.parametrize(
    "text", ["", "20", "20/", "/minute", "20/fortnight", "-1/minute", "1e9/minute", "²/minute", "1/minute/2", "1" * 11 + "/day"]
)
def test_a_rate_limit_without_limit_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        asks(body("nodemesh.io/shop/a", stated(text)), {})


def test_other_entries_first_are_refused() -> None:
    with pytest.raises(MalformedError):
        asks(body("nodemesh.io/shop/a", [("rule", "x"), ("limit", "1/day")]), {})
    with pytest.raises(MalformedError):
        asks(body("nodemesh.io/shop/a", []), {})


@pytest.mark.parametrize("bad", [b"\xff\xff", b"", body("shop"), body("", [("a", "b")]), body("shop", *[[("a", "b")]] * 300)])
def test_what_is_no_question(bad: bytes) -> None:
    with pytest.raises(MalformedError):
        asks(bad, FILES)


def test_files_and_overrides() -> None:
    (found,) = asks(body("shop", [("user", "ann")]), FILES)
    assert found.rule == Limit(5, Unit.MINUTE, name="usual")
    (unknown,) = asks(body("shop", [("other", "ann")]), FILES)
    assert unknown == Ask(None)
    limited = {"entries": [{"key": "user", "value": "ann"}], "limit": {"requests_per_unit": 2, "unit": "HOUR"}}
    request = new("envoy.service.ratelimit.v3.RateLimitRequest", domain="shop", descriptors=[limited])
    (found,) = asks(request.SerializeToString(), FILES)
    assert found.rule == Limit(2, Unit.HOUR)
    request.descriptors[0].limit.unit = 0
    with pytest.raises(MalformedError):
        asks(request.SerializeToString(), FILES)


def test_a_limit_replaces_another() -> None:
    usual, vip = asks(body("shop", [("user", "ann")], [("vip", "1")]), FILES)
    assert usual.rule is None
    assert isinstance(vip.rule, Unlimited)


def test_how_much_a_request_counts() -> None:
    def hits(**more: Any) -> int:
        return asks(body("shop", [("user", "ann")], **more), FILES)[0].hits

    assert (hits(), hits(hits_addend=3), hits(hits_addend=2**32 - 1)) == (1, 3, MAX_HITS)
    own = {"entries": [{"key": "user", "value": "ann"}], "hits_addend": {"value": 0}}
    request = new("envoy.service.ratelimit.v3.RateLimitRequest", domain="shop", descriptors=[own], hits_addend=7)
    assert asks(request.SerializeToString(), FILES)[0].hits == 0


texts = st.sampled_from(["", "a", "ab", "b", "user", "\x00", "é"])
entries_of = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


@settings(max_examples=200)
@given(entries_of, entries_of)
def test_what_differs_is_counted_apart(first: list[Entry], second: list[Entry]) -> None:
    def ask(entries: list[Entry]) -> Ask:
        return asks(body("nodemesh.io/a/b", stated("1/day", *entries)), {})[0]

    assert (ask(first).key == ask(second).key) == (first == second)
    assert (ask(first).group == ask(second).group) == ([key for key, _ in first] == [key for key, _ in second])


def test_values_that_are_no_utf8_are_counted_apart_too() -> None:
    raw = body("nodemesh.io/a/b", stated("1/day", ("0", "ab")))
    first, second, third = (asks(raw.replace(b"ab", value), {})[0].key for value in (b"\xff\xfe", b"\xfe\xff", b"ab"))
    assert len({first, second, third}) == 3


def test_the_units_of_overriding_limits_are_envoys() -> None:
    values = pool().FindEnumTypeByName("envoy.type.v3.RateLimitUnit").values
    for one in values:
        limited = {"entries": [{"key": "user", "value": "ann"}], "limit": {"requests_per_unit": 2, "unit": one.number}}
        request = new("envoy.service.ratelimit.v3.RateLimitRequest", domain="shop", descriptors=[limited]).SerializeToString()
        if one.name == "UNKNOWN":
            continue
        assert asks(request, FILES)[0].rule == Limit(2, Unit(one.name.lower()))


def test_answers() -> None:
    asked = [Ask(Limit(5, Unit.MINUTE, name="n")), Ask(Limit(5, Unit.HOUR, shadow=True)), Ask(Unlimited()), Ask(None)]
    good = answer(asked, [5, 6, 0, 0], NOW_S)
    assert good.decisions == (Decision.OK, Decision.SHADOW, Decision.UNLIMITED, Decision.UNKNOWN)
    read = message_class("envoy.service.ratelimit.v3.RateLimitResponse").FromString
    message = read(good.body)
    assert (message.overall_code, [one.code for one in message.statuses]) == (1, [1, 1, 1, 1])
    first = message.statuses[0]
    assert (first.current_limit.name, first.current_limit.requests_per_unit, first.limit_remaining) == ("n", 5, 0)
    assert first.duration_until_reset.seconds == 60 - int(NOW_S) % 60
    assert not message.statuses[3].HasField("current_limit")
    assert not message.response_headers_to_add
    over = answer(asked, [6, 6, 0, 0], NOW_S)
    message = read(over.body)
    assert (message.overall_code, [one.code for one in message.statuses]) == (2, [2, 1, 1, 1])
    (header,) = message.response_headers_to_add
    assert (header.key, header.value) == ("retry-after", str(60 - int(NOW_S) % 60))


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_question_or_none(raw: bytes) -> None:
    try:
        found = asks(raw, FILES)
    except MalformedError:
        return
    answer(found, [1] * len(found), NOW_S)
