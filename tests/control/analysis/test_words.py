"""control/analysis/words.py: a route, and how endpoints are called, in a line that says the numbers."""

from typing import Any

import msgspec
import pytest
import yaml

from control.analysis.words import calling_words, connection_words, route_words
from control.envoy.destinations.rules import Policy
from control.kinds.routing import HTTPRoute, L4Match, TLSMatch
from tests.control.analysis.test_describe import described
from tests.control.analysis.test_run import WELL, destination_rule

TO = "route: [{destination: {host: a}}]"


def route(text: str) -> HTTPRoute:
    return msgspec.convert(yaml.safe_load(f"{{{text}}}"), HTTPRoute)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TO, "anything -> a"),
        (f"match: [{{sourceNamespace: b, sourceLabels: {{app: c}}, port: 80}}], {TO}", "port 80 and from app=c and from namespace b -> a"),
        (f"match: [{{queryParams: {{v: {{exact: '2'}}}}, gateways: [mesh]}}], {TO}", "query v exact 2 and at mesh -> a"),
        (
            f"fault: {{delay: {{fixedDelay: 2s, percentage: {{value: 0.5}}}}, abort: {{httpStatus: 500}}}}, {TO}",
            "anything -> a (0.5% delayed by 2s, 0% answered 500)",
        ),
        (
            f"timeout: 3s, retries: {{attempts: 2, perTryTimeout: 1s}}, rewrite: {{uri: /new}}, {TO}",
            "anything -> a (as /new, within 3s, tried again 2 times of 1s each)",
        ),
        (
            f"retries: {{attempts: 0}}, mirror: {{host: b}}, corsPolicy: {{}}, {TO}",
            "anything -> a (not tried again, 100% mirrored to b, CORS)",
        ),
        ("redirect: {scheme: https, port: 8443}", "anything -> redirect to https://the same host:8443"),
    ],
)
def test_routes(text: str, words: str) -> None:
    assert route_words(route(text)) == words


def test_connections() -> None:
    destinations = [
        (one.destination, one.weight)
        for one in route("route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 3}]").route
    ]
    assert connection_words("tls", (TLSMatch(("x.test",), port=443),), destinations) == "tls x.test, port 443 -> a 25%, b 75%"
    assert connection_words("tcp", (L4Match(destination_subnets=("10.0.0.0/8",)),), destinations[:1]) == "tcp to 10.0.0.0/8 -> a"
    assert connection_words("tcp", (), destinations[:1]) == "tcp -> a"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({}, "nothing but defaults"),
        (
            {"load_balancer": {"simple": "RANDOM", "warmup": {"duration": "9s"}}, "outlier_detection": {"consecutive5xxErrors": 3}},
            "RANDOM, new ones warmed up for 9s, set aside after 3 5xx in a row",
        ),
        (
            {"load_balancer": {"consistentHash": {"httpHeaderName": "x"}}, "outlier_detection": {}},
            "by header x, set aside after 5 5xx in a row",
        ),
        (
            {
                "connection_pool": {"tcp": {"maxConnections": 7}, "http": {"http1MaxPendingRequests": 1}},
                "tls": {"mode": "MUTUAL", "credentialName": "c"},
            },
            "at most 7 connections, at most 1 waiting requests, TLS MUTUAL by secret c",
        ),
    ],
)
def test_calling(policy: dict[str, Any], words: str) -> None:
    assert calling_words(msgspec.convert(policy, Policy)) == words


def test_the_gateway_apis_routes_and_each_ports_own_way() -> None:
    parts = [part for part in WELL.split("---") if "kind: VirtualService" not in part]
    api = """
kind: HTTPRoute
apiVersion: gateway.networking.k8s.io/v1
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules:
  - backendRefs: [{name: cart, port: 80}]
  - matches: [{path: {value: /a}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: b.test, statusCode: 302}}]
"""
    rule = destination_rule("calling", "{host: cart, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}")
    found = described("---".join((*parts, api, f"\n{rule}\n")))
    assert found.routing == ("HTTPRoute shop/api",)
    assert found.routes == ("1. uri below /a -> redirect to b.test", "2. anything -> cart.shop.svc.cluster.local:80")
    assert found.calling == ("ROUND_ROBIN",)
