"""control/validation/rate_limit_checks.py: what could not be counted, or counts other than its author means, is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.envoy.messages import pool
from control.kinds import RateLimit
from control.validation.document import read_documents
from control.validation.rate_limit_checks import Counted, CountKey, count_key
from control.validation.statuses import REFUSING

RULE = {"limit": {"requests": 5, "per": "minute"}}
TARGETS = [{"kind": "Service", "name": "cart"}]


def findings(*rules: dict[str, Any], **spec: Any) -> list[str]:
    manifest = {
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "RateLimit",
        "metadata": {"name": "one", "namespace": "shop"},
        "spec": {"targetRefs": TARGETS, "rules": list(rules), **spec},
    }
    (document,) = read_documents(json.dumps(manifest), "one.yaml", "istio-system")
    assert (document.object is None) == bool(document.findings)
    assert document.object is None or isinstance(document.object, RateLimit)
    return [finding.what for finding in document.findings]


def test_good_limits() -> None:
    assert findings(RULE) == []
    whom = {"from": [{"source": {"namespaces": ["a"]}}], "to": [{"operation": {"paths": ["/a/{*}"], "methods": ["GET"]}}]}
    by = ["source.principal", "source.namespace", "remote.ip", "request.path", "request.auth.claims[a][b]"]
    rule = {"limit": {"requests": 1, "per": "day"}, **whom, "when": [{"key": "request.headers[a]", "values": ["b"]}], "by": by}
    assert findings(rule, scope="global", onFailure="allow", status=503, headers=True) == []
    assert findings({"limit": {"requests": 1, "per": "second", "burst": 7}}) == []


@pytest.mark.parametrize(
    ("rule", "spec", "what"),
    [
        ({"limit": {"requests": 0, "per": "minute"}}, {}, "must be 1 to"),
        ({"limit": {"requests": 5, "per": "week"}}, {}, "invalid enum value"),
        ({"limit": {"requests": 5, "per": "minute", "burst": -1}}, {}, "must be 1 to"),
        ({"limit": {"requests": 5, "per": "minute", "burst": 1}}, {"scope": "global"}, "no burst"),
        ({}, {}, "limit"),
        ({**RULE, "by": ["source.ip"]}, {}, "is none of"),
        ({**RULE, "by": ["request.headers"]}, {}, "is none of"),
        ({**RULE, "by": ["remote.ip[a]"]}, {}, "is none of"),
        ({**RULE, "by": ["request.headers[a b]"]}, {}, "header"),
        ({**RULE, "by": ['request.headers[a"b]']}, {}, "header"),
        ({**RULE, "by": ["request.auth.claims[a][]"]}, {}, "names no claim"),
        ({**RULE, "by": ["remote.ip", "remote.ip"]}, {}, "already"),
        ({**RULE, "to": []}, {}, "is empty"),
        ({**RULE, "when": [{"key": "experimental.envoy.filters.a[b]", "values": ["c"]}]}, {}, "can't be asked"),
        ({**RULE, "from": [{"source": {"principals": ["spiffe://a"]}}]}, {}, "never match"),
        ({**RULE, "match": {}}, {}, "unknown field"),
        (RULE, {"status": 200}, "refuses"),
        (RULE, {"status": 420}, "refuses"),
        (RULE, {"targetRefs": []}, "names nothing"),
        (RULE, {"targetRefs": [{"kind": "Pod", "name": "a"}]}, "can't be for"),
        (RULE, {"onFailure": "open"}, "invalid enum value"),
        (RULE, {"selector": {}}, "unknown field"),
        (RULE, {"rules": []}, "limits nothing"),
    ],
)
def test_limits_that_are_refused(rule: dict[str, Any], spec: dict[str, Any], what: str) -> None:
    found = findings(rule, **spec)
    assert any(what in one for one in found), found


@settings(max_examples=200)
@given(st.text() | st.from_regex(r"(request\.(headers|auth\.claims)|source\.principal)\[.*\]", fullmatch=True))
def test_a_key_is_one_that_can_be_asked_for_or_refused(text: str) -> None:
    try:
        found = count_key(text)
    except ValueError:
        return
    if found.of is Counted.HEADER:
        assert '"' not in found.names[0]
        assert "\\" not in found.names[0]
        assert text.lower() == f"request.headers[{found.names[0]}]".lower()
    assert found.of not in {Counted.HEADER, Counted.CLAIM} or found.names


def test_envoy_knows_every_status_that_refuses() -> None:
    known = {one.number for one in pool().FindEnumTypeByName("envoy.type.v3.StatusCode").values}
    assert {one for one in known if one >= 400} == REFUSING


def test_keys() -> None:
    assert count_key("request.auth.claims[a][b]") == CountKey(Counted.CLAIM, ("a", "b"))
    assert count_key("request.headers[X-User]") == CountKey(Counted.HEADER, ("x-user",))
    assert count_key("source.principal") == CountKey(Counted.PRINCIPAL)
