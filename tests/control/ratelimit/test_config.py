"""control/ratelimit/config.py: which limit a question meets, and files that are refused whole."""

from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from control.ratelimit.config import ConfigurationError, domains, rule_for
from control.ratelimit.limits import Entry, Limit, Unit, Unlimited

SHOP = """
domain: shop
descriptors:
  - key: path
    value: /pay
    rate_limit: {unit: minute, requests_per_unit: 5, name: pay, replaces: [{name: all}]}
  - key: path
    value: /img*
    rate_limit: {unlimited: true}
  - key: path
    rate_limit: {unit: SECOND, requests_per_unit: 100}
    shadow_mode: true
  - key: tenant
    descriptors:
      - key: path
        rate_limit: {unit: hour, requests_per_unit: 7}
  - key: tenant
    value: gold
    rate_limit: {unit: day, requests_per_unit: 9}
  - key: code
    value: 404
    rate_limit: {unit: week, requests_per_unit: 1}
"""
FOUND = domains({"shop.yaml": SHOP})


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ([("path", "/pay")], Limit(5, Unit.MINUTE, name="pay", replaces=("all",))),
        ([("path", "/img/1.png")], Unlimited()),
        ([("path", "/img")], Unlimited()),
        ([("path", "/other")], Limit(100, Unit.SECOND, shadow=True)),
        ([("tenant", "a"), ("path", "/x")], Limit(7, Unit.HOUR)),
        # The descriptor with a value is met first, and nothing is below it.
        ([("tenant", "gold"), ("path", "/x")], None),
        ([("tenant", "gold")], Limit(9, Unit.DAY)),
        ([("tenant", "a")], None),
        ([("code", "404")], Limit(1, Unit.WEEK)),
        ([("path", "/pay"), ("more", "1")], None),
        ([("nothing", "1")], None),
        ([], None),
    ],
)
def test_which_limit_is_met(entries: list[Entry], rule: Limit | Unlimited | None) -> None:
    assert rule_for(FOUND, "shop", entries) == rule
    assert rule_for(FOUND, "elsewhere", entries) is None


def one(descriptor: str) -> str:
    return f"domain: a\ndescriptors: [{descriptor}]"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "one document"),
        ("domain: a\n---\ndomain: b", "one document"),
        ("descriptors: []", "domain"),
        ("domain: ''", "empty domain"),
        ("domain: a\nlimits: []", "unknown field"),
        (one("{key: ''}"), "without key"),
        (one("{value: a}"), "key"),
        (one("{key: a, value: yes}"), "Expected"),
        (one("{key: a}, {key: a}"), "twice"),
        (one("{key: a, value: b*}, {key: a, value: b*}"), "twice"),
        (one("{key: a, rate_limit: {unit: fortnight, requests_per_unit: 1}}"), "is none of"),
        (one("{key: a, rate_limit: {requests_per_unit: 1}}"), "is none of"),
        (one("{key: a, rate_limit: {unit: day, requests_per_unit: -1}}"), "must be"),
        (one("{key: a, rate_limit: {unit: day, unlimited: true}}"), "unlimited"),
        (one("{key: a, rate_limit: {unit: day, requests_per_unit: 1, name: x, replaces: [{name: x}]}}"), "itself"),
        (one("{key: a, quota_mode: true}"), "unknown field"),
        ("domain: a\n b: [", "x.yaml:"),
        ("domain: &a [*a]", ""),
        (f"domain: a\ndescriptors: {'[' * 5000}", ""),
    ],
)
def test_files_that_are_refused(text: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.yaml") as caught:
        domains({"good.yaml": "domain: b", "x.yaml": text})
    assert what in str(caught.value)


def test_a_domain_is_one_files() -> None:
    with pytest.raises(ConfigurationError, match="already"):
        domains({"a.yaml": "domain: a", "b.yaml": "domain: a"})


@settings(max_examples=300)
@given(st.text(max_size=200) | st.text(alphabet="{}[]:,-&*!|>\n \tabd'\"", max_size=200))
def test_any_text_is_limits_or_refused(text: str) -> None:
    with suppress(ConfigurationError):
        domains({"x.yaml": text})


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
limits = st.fixed_dictionaries({}, optional={"unit": st.sampled_from(["day", "hour", ""]) | trees, "requests_per_unit": trees})
descriptors = st.fixed_dictionaries(
    {"key": st.text(max_size=3)}, optional={"value": trees, "rate_limit": limits | trees, "shadow_mode": trees}
)


@settings(max_examples=200)
@given(st.fixed_dictionaries({"domain": st.text(max_size=3)}, optional={"descriptors": st.lists(descriptors, max_size=3) | trees}))
def test_any_document_is_limits_or_refused(document: object) -> None:
    with suppress(ConfigurationError):
        assert len(domains({"x.yaml": yaml.safe_dump(document)})) == 1


keys, values = st.sampled_from("ab"), st.sampled_from(["", "x", "xy", "x*", "*"])
plain = st.fixed_dictionaries(
    {"key": keys, "value": values, "rate_limit": st.builds(lambda n: {"unit": "day", "requests_per_unit": n}, st.integers(0, 9))}
)
nested = st.builds(lambda one, below: {**one, "descriptors": below}, plain, st.lists(plain, max_size=4))


def reference(configured: list[dict[str, object]], entries: list[Entry]) -> int | None:
    """As the reference server's own documentation describes it, one level after the other."""
    for depth, (key, value) in enumerate(entries):
        same = [one for one in configured if one["key"] == key]
        exact = [one for one in same if one["value"] == value and value and not value.endswith("*")]
        wide = [one for one in same if str(one["value"]).endswith("*") and value.startswith(str(one["value"])[:-1])]
        found = (exact or wide or [one for one in same if not one["value"]] or [None])[0]
        if found is None:
            return None
        if depth == len(entries) - 1:
            return int(found["rate_limit"]["requests_per_unit"])  # type: ignore[index]
        configured = found.get("descriptors", [])  # type: ignore[assignment]
    return None


@settings(max_examples=300)
@given(st.lists(nested, max_size=4), st.lists(st.tuples(keys, st.sampled_from(["", "x", "xy", "z"])), max_size=3))
def test_matching_agrees_with_the_reference(configured: list[dict[str, object]], entries: list[Entry]) -> None:
    try:
        found = domains({"x.yaml": yaml.safe_dump({"domain": "d", "descriptors": configured})})
    except ConfigurationError:
        return
    rule = rule_for(found, "d", entries)
    assert (rule.requests if isinstance(rule, Limit) else None) == reference(configured, entries)
