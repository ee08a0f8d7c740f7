"""control.validation.former_fields.py: what had another name is written in today's, and what is said twice is an error."""

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import IstioGateway
from control.validation.document import read_documents
from control.validation.finding import Severity
from control.validation.former_fields import renew


def virtual_service(http: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "VirtualService", "metadata": {"name": "one"}, "spec": {"hosts": ["reviews"], "http": [http]}}


def destination_rule(policy: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "DestinationRule", "metadata": {"name": "one"}, "spec": {"host": "reviews", "trafficPolicy": policy}}


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ({"mirrorPercent": 50}, {"mirrorPercentage": {"value": 50}}),
        ({"mirror_percent": 50}, {"mirrorPercentage": {"value": 50}}),
        ({"websocketUpgrade": True}, {}),
        ({"appendHeaders": {"a": "1"}}, {"headers": {"request": {"add": {"a": "1"}}}}),
        ({"removeResponseHeaders": ["a"]}, {"headers": {"response": {"remove": ["a"]}}}),
        (
            {"route": [{"destination": {"host": "a"}, "appendRequestHeaders": {"x": "y"}}]},
            {"route": [{"destination": {"host": "a"}, "headers": {"request": {"add": {"x": "y"}}}}]},
        ),
        (
            {"fault": {"delay": {"percent": 7, "fixedDelay": "5s"}, "abort": {"percent": 3, "httpStatus": 4}}},
            {
                "fault": {
                    "delay": {"fixedDelay": "5s", "percentage": {"value": 7}},
                    "abort": {"httpStatus": 4, "percentage": {"value": 3}},
                }
            },
        ),
        ({"corsPolicy": {"allowOrigin": ["a.com", "*"]}}, {"corsPolicy": {"allowOrigins": [{"exact": "a.com"}, {"regex": ".*"}]}}),
        (
            {"match": [{"headers": {"end_user": "jason", "x-any": None, "cookie": {"regex": "a"}}}]},
            {"match": [{"headers": {"end_user": {"exact": "jason"}, "x-any": {}, "cookie": {"regex": "a"}}}]},
        ),
        ({"retries": {"attempts": 3, "per_try_timeout": "2s"}}, {"retries": {"attempts": 3, "perTryTimeout": "2s"}}),
    ],
)
def test_virtual_services(former: dict[str, Any], new: dict[str, Any]) -> None:
    given = virtual_service(former)
    before = deepcopy(given)
    renewed, remarks = renew("VirtualService", given)
    assert renewed["spec"]["http"] == [new]
    assert given == before
    assert remarks
    assert all(remark.severity is Severity.WARNING for remark in remarks)


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ({"loadBalancer": {"simple": "LEAST_CONN"}}, {"loadBalancer": {"simple": "LEAST_REQUEST"}}),
        ({"loadBalancer": {"warmupDurationSecs": "60s"}}, {"loadBalancer": {"warmup": {"duration": "60s"}}}),
        (
            {"loadBalancer": {"consistentHash": {"useSourceIp": True, "minimumRingSize": 8}}},
            {"loadBalancer": {"consistentHash": {"useSourceIp": True, "ringHash": {"minimumRingSize": 8}}}},
        ),
        ({"outlierDetection": {"consecutiveErrors": 5}}, {"outlierDetection": {"consecutiveGatewayErrors": 5, "consecutive5xxErrors": 0}}),
        (
            {"outlierDetection": {"http": {"consecutiveErrors": 1, "maxEjectionPercent": 100}}},
            {"outlierDetection": {"maxEjectionPercent": 100, "consecutiveGatewayErrors": 1, "consecutive5xxErrors": 0}},
        ),
        (
            {"outlierDetection": {"consecutiveErrors": 5, "consecutive5xxErrors": 7}},
            {"outlierDetection": {"consecutive5xxErrors": 7, "consecutiveGatewayErrors": 5}},
        ),
        (
            {"portLevelSettings": [{"port": {"number": 80}, "loadBalancer": {"simple": "LEAST_CONN"}}]},
            {"portLevelSettings": [{"port": {"number": 80}, "loadBalancer": {"simple": "LEAST_REQUEST"}}]},
        ),
    ],
)
def test_destination_rules(former: dict[str, Any], new: dict[str, Any]) -> None:
    renewed, remarks = renew("DestinationRule", destination_rule(former))
    assert renewed["spec"]["trafficPolicy"] == new
    assert remarks


def test_subsets_have_policies_of_their_own() -> None:
    rule = destination_rule({})
    rule["spec"]["subsets"] = [{"name": "v1", "labels": {"my_version": "v1"}, "trafficPolicy": {"loadBalancer": {"simple": "LEAST_CONN"}}}]
    renewed, _ = renew("DestinationRule", rule)
    assert renewed["spec"]["subsets"][0] == {
        "name": "v1",
        "labels": {"my_version": "v1"},
        "trafficPolicy": {"loadBalancer": {"simple": "LEAST_REQUEST"}},
    }


def test_what_is_said_twice_is_an_error() -> None:
    _, remarks = renew("VirtualService", virtual_service({"mirrorPercent": 5, "mirrorPercentage": {"value": 6}}))
    assert [(remark.severity, remark.path) for remark in remarks] == [(Severity.ERROR, ("spec", "http", 0, "mirrorPercent"))]


def test_what_is_of_today_is_the_same_object() -> None:
    today = virtual_service({"match": [{"headers": {"a": {"exact": "b"}}}], "route": [{"destination": {"host": "a"}}]})
    renewed, remarks = renew("VirtualService", today)
    assert renewed is today
    assert remarks == []


def test_other_kinds_and_malformed_ones_are_left_alone() -> None:
    for manifest in ({"kind": "Pod", "spec": {"host_network": True}}, {"kind": "VirtualService", "spec": 7}, {"kind": "VirtualService"}):
        assert renew(str(manifest["kind"]), manifest) == (manifest, [])
    odd = virtual_service({"fault": 3, "route": "x", "match": [7], "corsPolicy": [], "headers": {}})
    assert renew("VirtualService", odd) == (odd, [])
    for headers in ([], 7, {"request": []}, {"request": "x"}):
        odd = virtual_service({"headers": headers, "appendHeaders": {"a": "b"}})
        assert renew("VirtualService", odd) == (odd, []), "what is malformed is told of by whoever reads it"


NAMES = st.sampled_from(
    [
        "http",
        "route",
        "match",
        "headers",
        "request",
        "response",
        "add",
        "remove",
        "appendHeaders",
        "removeResponseHeaders",
        "append_headers",
        "mirrorPercent",
        "mirror_percent",
        "fault",
        "delay",
        "abort",
        "percent",
        "corsPolicy",
        "allowOrigin",
        "allowOrigins",
        "websocketUpgrade",
        "trafficPolicy",
        "subsets",
        "loadBalancer",
        "consistentHash",
        "simple",
        "minimumRingSize",
        "outlierDetection",
        "consecutiveErrors",
        "portLevelSettings",
        "withoutHeaders",
        "queryParams",
        "percentage",
        "spec",
    ]
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["", "LEAST_CONN", "*"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=25,
)
MAP = st.dictionaries(NAMES, ANYTHING, max_size=5)
SPEC = st.one_of(MAP, st.fixed_dictionaries({"http": st.lists(MAP, min_size=1, max_size=2), "trafficPolicy": MAP}))


@given(st.sampled_from(["VirtualService", "DestinationRule", "Gateway"]), SPEC)
@settings(max_examples=400, deadline=None)
def test_nothing_that_is_written_breaks_it_and_once_is_enough(kind: str, spec: dict[str, Any]) -> None:
    given = {"kind": kind, "metadata": {"name": "a"}, "spec": spec}
    before = deepcopy(given)
    renewed, _ = renew(kind, given)
    assert given == before
    assert renew(kind, renewed) == (renewed, [])
    text = json.dumps({"apiVersion": "networking.istio.io/v1", **given})
    assert read_documents(text, "a.yaml", "istio-system")


def test_what_is_read_is_renewed_with_a_warning_at_its_place() -> None:
    text = """
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {my_label: edge}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ["*"]
    tls:
      mode: SIMPLE
      credential_name: cert
      not_a_field: 7
"""
    (document,) = read_documents(text, "a.yaml", "istio-system")
    assert [(one.severity, one.origin.line, one.what) for one in document.findings] == [
        (Severity.WARNING, 12, "credential_name is a former form of credentialName"),
        (Severity.ERROR, 11, "unknown field 'notAField'"),
    ]
    (document,) = read_documents(text.replace("      not_a_field: 7\n", ""), "a.yaml", "istio-system")
    assert isinstance(document.object, IstioGateway)
    assert document.object.spec.selector == {"my_label": "edge"}
