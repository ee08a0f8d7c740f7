"""control/envoy/limits: limits that each Envoy counts for itself, as requests to a real one see them."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from control.envoy.built import CLUSTER, LISTENER
from control.envoy.limits.server import NOBODY
from control.kinds import Kind
from tests.control.envoy.echo import upstream
from tests.control.envoy.real_envoy import as_json
from tests.control.envoy.routed import Routed, echo_pods, echo_service, routed
from tests.control.envoy.test_security import policy, to, tokens
from tests.control.envoy.test_tokens import Issuer
from tests.control.envoy.test_waypoint import Served, pod, service
from tests.control.envoy.validation import validate

ME = Issuer("me")
ADDRESSES = {"v1": "10.0.0.1"}


def limit(name: str, rules: str, more: str = "", target: str = "") -> str:
    return f"""
    kind: RateLimit
    apiVersion: nodemesh.io/v1alpha1
    metadata: {{name: {name}, namespace: shop}}
    spec: {{{target or to("Service", name)}{more}rules: [{rules}]}}
"""


def hourly(requests: int, more: str = "") -> str:
    """A rule; in the time of a test an hour's requests do not come again."""
    return f"{{limit: {{requests: {requests}, per: hour}}{more}}}"


BY_USER = ", by: ['request.headers[x-user]'], when: [{key: 'request.headers[x-user]', notValues: [vip]}]"
LIMITS = {
    "all": limit("all", hourly(3), "headers: true, status: 503, "),
    "matched": limit("matched", hourly(2, ", to: [{operation: {methods: [POST], paths: [/pay*]}}]")),
    "headers": limit("headers", hourly(2, ", by: ['request.headers[X-User]']")),
    "paths": limit("paths", hourly(1, ", by: [request.path]")),
    "claims": limit("claims", hourly(2, ", by: ['request.auth.claims[sub]']")),
    "clients": limit("clients", hourly(2, ", by: [source.principal, source.namespace, remote.ip]")),
    "two": limit("two", f"{hourly(5)}, {hourly(2, BY_USER)}"),
    "burst": limit("burst", "{limit: {requests: 1, per: hour, burst: 3}}"),
    "uncounted": limit("uncounted", f"{hourly(5, ', to: [{operation: {methods: [POST]}}]')}", "scope: global, headers: true, "),
    "open": limit("open", hourly(1), "scope: global, onFailure: allow, "),
    "unreadable": limit("unreadable", "{limit: {requests: many, per: hour}}"),
    "let-go": limit("let-go", "{limit: {requests: many, per: hour}}", "onFailure: allow, "),
    "refused": limit("refused", hourly(2, ", to: [{operation: {methods: [GET]}}]")),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    with ExitStack() as stack:
        servers = {address: stack.enter_context(upstream(name)) for name, address in ADDRESSES.items()}
        served = Served()
        served.write("base2.yaml", echo_pods(ADDRESSES), *(echo_service(name, n) for n, name in enumerate(("echo", *LIMITS))))
        served.write("limits.yaml", *LIMITS.values())
        only = policy("only", to("Service", "refused"), body="rules: [{when: [{key: 'request.headers[x-in]', values: ['yes']}]}]")
        served.write("policies.yaml", only, tokens("good", to("Service", "claims"), f"jwks: '{ME.keys}'"))
        yield stack.enter_context(routed(tmp_path_factory.mktemp("limits"), served, servers))


def test_requests_beyond_a_limit_are_refused(shop: Routed) -> None:
    answers = [shop.ask("all") for _ in range(4)]
    assert [one.status for one in answers] == [200, 200, 200, 503]
    assert [one.headers["x-ratelimit-remaining"] for one in answers] == ["2", "1", "0", "0"]
    assert {one.headers["x-ratelimit-limit"] for one in answers} == {"3"}
    assert "x-ratelimit-limit" not in shop.ask("echo").headers


def test_requests_that_no_rule_matches_are_not_counted(shop: Routed) -> None:
    assert shop.counted("matched", 4) == {"v1": 4}
    assert [shop.ask("matched", "/pay/1", method="POST").status for _ in range(3)] == [200, 200, 429]
    # Another spelling of the same path is no way around.
    assert [shop.ask("matched", path, method="POST").status for path in ("//pay", "/x/../pay", "/pay?a")] == [429, 429, 429]
    assert shop.counted("matched", 1) == {"v1": 1}


def test_each_value_of_a_header_has_its_own_limit(shop: Routed) -> None:
    assert shop.counted("headers", 3, x_user="ann") == {"v1": 2, "429": 1}
    assert shop.counted("headers", 3, x_user="bob") == {"v1": 2, "429": 1}
    # Those without it are counted together: leaving it out is no way around.
    assert shop.counted("headers", 3) == {"v1": 2, "429": 1}


def test_each_path_has_its_own_limit(shop: Routed) -> None:
    assert shop.counted("paths", 2, "/a") == {"v1": 1, "429": 1}
    assert shop.counted("paths", 2, "/b") == {"v1": 1, "429": 1}
    assert [shop.ask("paths", path).status for path in ("/a?b", "//a", "/c/../a")] == [429, 429, 429]


def test_each_subject_of_a_token_has_its_own_limit(shop: Routed) -> None:
    for subject in ("cook", "waiter"):
        assert shop.counted("claims", 3, authorization=f"Bearer {ME.token(sub=subject)}") == {"v1": 2, "429": 1}
    # What no good token says counts for nothing, and a bad token uses nothing up.
    assert shop.counted("claims", 3, authorization="Bearer x.y.z") == {"401": 3}
    assert shop.counted("claims", 3) == {"v1": 2, "429": 1}


def test_the_client_is_told_by_its_tunnel_and_address(shop: Routed) -> None:
    assert shop.counted("clients", 3) == {"v1": 2, "429": 1}
    assert shop.counted("clients", 1, x_forwarded_client_cert="URI=spiffe://other") == {"429": 1}
    # Whom a client from inside the mesh names in headers is nobody.
    assert shop.counted("clients", 1, x_forwarded_for="192.0.2.7") == {"429": 1}


def test_several_rules_hold_together(shop: Routed) -> None:
    assert shop.counted("two", 3, x_user="ann") == {"v1": 2, "429": 1}
    # The first rule is used up by all of them, also by those whom the second does not count.
    assert shop.counted("two", 5, x_user="vip") == {"v1": 3, "429": 2}


def test_a_burst_is_let_through_at_once(shop: Routed) -> None:
    assert shop.counted("burst", 5) == {"v1": 3, "429": 2}


def test_who_is_not_let_in_uses_nothing_up(shop: Routed) -> None:
    assert shop.counted("refused", 5) == {"403": 5}
    assert shop.counted("refused", 3, x_in="yes") == {"v1": 2, "429": 1}


def test_where_nobody_counts_for_all_each_limit_says_what_that_means(shop: Routed) -> None:
    answers = [shop.ask("uncounted", method="POST") for _ in range(2)]
    assert [one.status for one in answers] == [503, 503]
    assert shop.counted("uncounted", 1) == {"v1": 1}
    assert shop.counted("open", 3) == {"v1": 3}
    assert statistics(shop, "ratelimit.rate_limit.shop.open.failure_mode_allowed") == 3
    assert statistics(shop, "ratelimit.rate_limit.shop.uncounted.error") == 2


def test_a_limit_that_can_not_be_read_lets_nothing_through_unless_it_says_so(shop: Routed) -> None:
    assert shop.counted("unreadable", 1) == {"403": 1}
    assert shop.counted("let-go", 1) == {"v1": 1}


def test_envoy_counts_what_is_refused(shop: Routed) -> None:
    before = statistics(shop, "rate_limit.shop.all.http_local_rate_limit.rate_limited")
    shop.counted("all", 5)
    assert statistics(shop, "rate_limit.shop.all.http_local_rate_limit.rate_limited") > before


def statistics(shop: Routed, name: str) -> int:
    with urlopen(f"http://{shop.envoy.admin}/stats?format=json&filter={name}", timeout=5) as answer:
        return sum(one["value"] for one in json.load(answer)["stats"] if one["name"].endswith(name))


# ---- where they hold


def names(served: Served) -> dict[str, list[str]]:
    """Of each chain the filters of limits."""
    main = next(one for one in served.of(LISTENER).values() if one.name == "main_internal")
    found = {}
    for chain in as_json(main)["filter_chains"]:
        inner = [one["name"] for one in chain["filters"][-1]["typed_config"].get("http_filters", [])]
        found[chain["name"].split("|")[-1].partition(".")[0]] = [name for name in inner if name.startswith("nodemesh.rate_limits.")]
    return found


def test_limits_hold_where_they_name_something(tmp_path: Path) -> None:
    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), service("till", "10.96.0.2"), pod("cart-1", "cart", "10.0.0.1"))
    gateway = limit("every", hourly(1), target="targetRefs: [{kind: Gateway, name: waypoint, group: gateway.networking.k8s.io}], ")
    served.write("b.yaml", gateway, limit("cart", hourly(1), "scope: global, "))
    every, cart = "nodemesh.rate_limits.shop.every", "nodemesh.rate_limits.shop.cart"
    assert names(served) == {"cart": [cart, every], "till": [every]}
    assert NOBODY in served.of(CLUSTER)
    validate(tmp_path, served.view)
    problems = [(one.object.kind, one.object.name) for one in served.view.problems]
    assert problems == [(Kind.RATE_LIMIT, "cart")]
    served.write("b.yaml", gateway)
    assert names(served) == {"cart": [every], "till": [every]}
    assert NOBODY not in served.of(CLUSTER)
