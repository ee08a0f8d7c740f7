"""control/envoy/readable.py: what an Envoy is served, line by line."""

import pytest

from control.envoy.readable import ReadableResource, readable
from tests.control.envoy.routing.test_rules import rule, virtual_service
from tests.control.envoy.test_waypoint import CLUSTER_NAME, Served, pod, service

ROUTES = """hosts: [cart], http: [
  {match: [{uri: {exact: /a}, headers: {x-user: {exact: ann}}, sourceNamespace: team}], redirect: {authority: b.test, uri: /c}},
  {match: [{uri: {regex: '/[0-9]+'}, queryParams: {v: {exact: '1'}}}], directResponse: {status: 418}},
  {route: [{destination: {host: cart}, weight: 1}, {destination: {host: cart, subset: one}, weight: 3}]}]"""


@pytest.fixture
def served() -> Served:
    found = Served()
    found.write("cart.yaml", service("cart", "10.96.0.1"), pod("c1", "cart", "10.0.0.1"), pod("c2", "cart", "10.0.0.2", mesh="none"))
    subsets = rule("cart", "host: cart, subsets: [{name: one, labels: {version: v1}}]")
    found.write("rules.yaml", virtual_service("cart", ROUTES), subsets)
    return found


def one(served: Served, kind: str, name: str = CLUSTER_NAME) -> ReadableResource:
    (found,) = readable(served.view, kind, name)
    return found


def test_routes(served: Served) -> None:
    found = one(served, "routes")
    assert found.summary == "1 host, 3 routes"
    assert found.details == [
        "*:",
        "  /a and header x-user and some clients -> redirect to b.test/c",
        "  ~ /[0-9]+ and query v -> answer 418",
        f"  /* -> {CLUSTER_NAME} by 1, {CLUSTER_NAME.replace('http|', 'http/one|')} by 3",
    ]
    assert found.sources == ["Service shop/cart", "VirtualService shop/cart"]
    assert found.content["name"] == CLUSTER_NAME


def test_endpoints(served: Served) -> None:
    found = one(served, "endpoints")
    assert (found.summary, found.details) == (
        "2 endpoints",
        ["10.0.0.1:8080 cluster.local/ns/shop/sa/cart by tunnel, r/z", "10.0.0.2:8080, r/z"],
    )


def test_listeners(served: Served) -> None:
    assert one(served, "listeners", "connect_terminate").summary == ":::15008"
    found = one(served, "listeners", "main_internal")
    assert found.summary == "inside"
    (chain,) = found.details
    assert chain.startswith(f"{CLUSTER_NAME}: ")
    assert chain.endswith("envoy.filters.http.router")


def test_clusters(served: Served) -> None:
    assert one(served, "clusters").summary == "EDS, LEAST_REQUEST"


def test_what_is_not_there(served: Served) -> None:
    for kind, name, what in (("bootstrap", "", "none of"), ("clusters", "x", "has no 'x'")):
        with pytest.raises(LookupError, match=what):
            readable(served.view, kind, name)
