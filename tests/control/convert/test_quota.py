"""control/convert/quota.py: quotas of Mixer become RateLimits that let no more through; what can't be said is an error."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from control.convert.quota_limits import duration_ms, limit_of
from control.convert.targets import ConversionError
from control.kinds.rate_limits import Unit
from control.validation.document import read_documents
from tests.control.convert.test_documents import SERVICES, converted, made, refused

INSTANCE = """
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: requestcountquota, namespace: istio-system}
spec:
  compiledTemplate: quota
  params:
    dimensions: {%s}
"""
USUAL = (
    """source: 'request.headers["x-forwarded-for"] | "unknown"', """
    """destination: 'destination.labels["app"] | destination.service.name | "unknown"', """
    """destinationVersion: 'destination.labels["version"] | "unknown"'"""
)
HANDLER = """
apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: quotahandler, namespace: istio-system}
spec:
  compiledAdapter: %s
  params:
    redisServerUrl: redis:6379
    quotas:
    - {name: requestcountquota.instance.istio-system, %s}
"""
OLDEST = """
apiVersion: config.istio.io/v1alpha2
kind: memquota
metadata: {name: handler, namespace: istio-system}
spec: {quotas: [{name: requestcount.quota.istio-system, maxAmount: 5000, validDuration: 1s}]}
---
apiVersion: config.istio.io/v1alpha2
kind: quota
metadata: {name: requestcount, namespace: istio-system}
spec: {dimensions: {user: source.user, path: request.path, method: request.method}}
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: quota, namespace: istio-system}
spec: {actions: [{handler: handler.memquota, instances: [requestcount.quota]}]}
---
apiVersion: config.istio.io/v1alpha2
kind: QuotaSpec
metadata: {name: request-count, namespace: istio-system}
spec: {rules: [{quotas: [{charge: 1, quota: requestcount}]}]}
"""
RULE = """
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: quota, namespace: istio-system}
spec: {%sactions: [{handler: quotahandler, instances: [requestcountquota]}]}
"""
SPEC = """
apiVersion: config.istio.io/v1alpha2
kind: QuotaSpec
metadata: {name: request-count, namespace: istio-system}
spec: {rules: [{quotas: [{charge: %s, quota: requestcountquota}]}]}
"""
BINDING = """
apiVersion: config.istio.io/v1alpha2
kind: QuotaSpecBinding
metadata: {name: request-count, namespace: istio-system}
spec: {quotaSpecs: [{name: request-count, namespace: istio-system}], services: [%s]}
"""
ONE = "{name: products, namespace: shop}"
FIVE = "maxAmount: 5, validDuration: 60s"


def documents(
    quota: str = FIVE, dimensions: str = USUAL, match: str = "", charge: str = "1", services: str = ONE, kind: str = "memquota"
) -> str:
    parts = (SERVICES, INSTANCE % dimensions, HANDLER % (kind, quota), RULE % match, SPEC % charge, BINDING % services)
    return "\n---\n".join(parts)


def rules(*arguments: Any, **options: Any) -> Any:
    ((kind, name, spec),) = made(converted(documents(*arguments, **options)))
    assert (kind, name) == ("RateLimit", "shop/request-count-products")
    assert spec["targetRefs"] == [{"group": "", "kind": "Service", "name": "products"}]
    assert spec["scope"] == "global"
    return spec["rules"]


def test_a_quota_counts_apart_by_what_it_did() -> None:
    assert rules() == [{"limit": {"requests": 5, "per": "minute"}, "by": ["request.headers[x-forwarded-for]"]}]
    assert rules(kind="redisquota") == rules()
    notes = "; ".join(note.what for note in converted(documents()).notes)
    assert "destinationVersion has no word" in notes
    assert "waypoint" in notes
    assert "rate limit server" in notes


def test_the_oldest_form() -> None:
    ((_, _, spec),) = made(converted(SERVICES, OLDEST, BINDING % ONE))
    assert spec["rules"] == [{"limit": {"requests": 5000, "per": "second"}, "by": ["source.principal", "request.path"]}]


def test_what_is_made_is_a_rate_limit() -> None:
    quota = f"{FIVE}, overrides: [{{dimensions: {{source: 10.0.0.1}}, maxAmount: 1}}]"
    for document in converted(documents(quota)).documents:
        if document["kind"] == "RateLimit":
            (read,) = read_documents(yaml.safe_dump(document), "a.yaml", "istio-system")
            assert read.object is not None, read.findings


def test_overrides_are_rules_ahead_of_the_rest() -> None:
    override = "{dimensions: {destination: products, source: 10.0.0.1}, maxAmount: 50}"
    other = "{dimensions: {destination: other}, maxAmount: 900}"
    by, key = ["request.headers[x-forwarded-for]"], "request.headers[x-forwarded-for]"
    assert rules(f"{FIVE}, overrides: [{override}, {other}]") == [
        {"limit": {"requests": 50, "per": "minute"}, "by": by, "when": [{"key": key, "values": ["10.0.0.1"]}]},
        {"limit": {"requests": 5, "per": "minute"}, "by": by, "when": [{"key": key, "notValues": ["10.0.0.1"]}]},
    ]
    assert rules(f"{FIVE}, overrides: [{{dimensions: {{destination: products}}, maxAmount: 1}}, {override}]") == [
        {"limit": {"requests": 1, "per": "minute"}, "by": by}
    ]


def test_an_override_by_two_never_lets_more_through_than_the_rest() -> None:
    dimensions = "path: request.path, who: source.principal"
    wide = "overrides: [{dimensions: {path: /a, who: cluster.local/ns/a/sa/b}, maxAmount: 50}]"
    assert [one["limit"]["requests"] for one in rules(f"{FIVE}, {wide}", dimensions)] == [5]
    narrow = wide.replace("50", "2")
    first, rest = rules(f"{FIVE}, {narrow}", dimensions)
    assert first["to"] == [{"operation": {"paths": ["/a"]}}]
    assert first["when"] == [{"key": "source.principal", "values": ["cluster.local/ns/a/sa/b"]}]
    assert set(rest) == {"limit", "by"}


def test_conditions_of_the_rule() -> None:
    match = """match: 'match(request.headers["cookie"], "session=*") == false && destination.service.name == "products"', """
    assert rules(match=match)[0]["when"] == [{"key": "request.headers[cookie]", "notValues": ["session=*"]}]
    other = """match: 'destination.labels["app"] != "products"', """
    assert made(converted(documents(match=other))) == []


def test_services_of_which_each_had_its_own_quota() -> None:
    both = f"{ONE}, {{name: products-next, namespace: shop}}"
    assert [name for _, name, _ in made(converted(documents(services=both)))] == [
        "shop/request-count-products",
        "shop/request-count-products-next",
    ]
    assert "together" in refused(documents(services=both, dimensions="source: source.ip"))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"services": "{service: '*'}"}, "every service"),
        ({"services": "{name: products, labels: {a: b}}"}, "labels"),
        ({"quota": "maxAmount: 1, validDuration: 5s"}, "less than one"),
        ({"quota": "maxAmount: 0, validDuration: 1s"}, "no number"),
        ({"quota": "maxAmount: 5"}, "no time"),
        ({"quota": f"{FIVE}, bucket: 7"}, "bucket"),
        ({"charge": "0"}, "charge"),
        ({"charge": "12345678901"}, "charge"),
        ({"charge": "10"}, "less than one"),
        ({"quota": f"{FIVE}, overrides: [{{dimensions: {{destinationVersion: v1}}, maxAmount: 1}}]"}, "no word"),
        ({"quota": f"{FIVE}, overrides: [{{dimensions: {{source: unknown}}, maxAmount: 1}}]"}, "one attribute"),
        ({"quota": f"{FIVE}, overrides: [{{dimensions: {{nothing: a}}, maxAmount: 1}}]"}, "one attribute"),
        ({"quota": f"{FIVE}, overrides: [{{dimensions: {{source: 'a*'}}, maxAmount: 1}}]"}, "pattern"),
        ({"match": """match: 'request.size > 5', """}, "not understood"),
        ({"match": """match: 'source.labels["app"] == "a"', """}, "no word"),
        ({"match": """match: 'request.path == "/a" || request.path == "/b"', """}, "not understood"),
        ({"dimensions": 'a: \'conditional(true, "a", "b")\''}, "not understood"),
        ({"dimensions": "a: 7"}, "no expression"),
    ],
)
def test_what_has_no_new_form(options: dict[str, str], what: str) -> None:
    assert what in refused(documents(**options))


@pytest.mark.parametrize("left_out", ["kind: handler", "kind: rule", "kind: QuotaSpec\n", "kind: instance"])
def test_what_belongs_together_is_needed_together(left_out: str) -> None:
    kept = [part for part in documents().split("\n---\n") if left_out not in part]
    assert "among the documents" in refused("\n---\n".join(kept))


def test_other_adapters_have_no_new_form() -> None:
    assert "no new form" in refused(documents().replace("compiledAdapter: memquota", "compiledAdapter: stdio"))


@given(st.integers(1, 10**7), st.integers(1, 10**6), st.sampled_from(["ms", "s", "m", "h"]), st.integers(1, 20))
def test_no_limit_lets_more_through(amount: int, length: int, unit: str, charge: int) -> None:
    quota = {"maxAmount": amount, "validDuration": f"{length}{unit}"}
    try:
        found, _ = limit_of(quota, charge)
    except ConversionError:
        return
    length_ms, unit_ms = duration_ms(quota["validDuration"]), Unit(found["per"]).seconds * 1000
    assert unit_ms <= length_ms
    assert found["requests"] * charge * length_ms <= amount * unit_ms
