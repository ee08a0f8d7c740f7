"""control/envoy/patches: what patches make of what waypoints and gateways are served, read as messages and judged by Envoy itself."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from control.envoy.built import CLUSTER, LISTENER, ROUTES
from control.envoy.patches.allowed import opened
from control.envoy.proxies import ProxyKey
from control.envoy.view import ProxyView
from tests.control.envoy.gateways.test_gateway import Edge, bound, istio_gateway, to
from tests.control.envoy.gateways.test_gateway import http as plain
from tests.control.envoy.patches.envoy_filters import MANAGER, ROUTER, envoy_filter, http_filter, inserted, lua, patch, typed
from tests.control.envoy.test_waypoint import CLUSTER_NAME, GATEWAY, Served, pod, service
from tests.control.envoy.validation import messages, validate

OTHER = CLUSTER_NAME.replace("cart", "web")
TCP = "inbound-vip|82|tcp|cart.shop.svc.cluster.local"
PORTS = "[{name: http, port: 80}, {name: tcp-db, port: 82}]"
POLICY = """
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: p, namespace: shop}
    spec: {targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}], rules: [{to: [{operation: {methods: [GET]}}]}]}
---
    kind: RequestAuthentication
    apiVersion: security.istio.io/v1
    metadata: {name: r, namespace: shop}
    spec:
      targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]
      jwtRules: [{issuer: a, jwksUri: https://a.example/keys}]
"""
LIMIT = http_filter("limit", "local_ratelimit.v3.LocalRateLimit", stat_prefix="limit")
NETWORK_LIMIT = {
    "name": "connections",
    "typed_config": typed(
        "filters.network.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="n",
        token_bucket={"max_tokens": 10, "tokens_per_fill": 1, "fill_interval": "60s"},
    ),
}
EXTRA = {
    "name": "extra",
    "type": "STRICT_DNS",
    "connect_timeout": "1s",
    "load_assignment": {
        "cluster_name": "extra",
        "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "limits.shop.example", "port_value": 8081}}}}]}
        ],
    },
}


def shop(*texts: str) -> Served:
    served = Served()
    cart, web = service("cart", "10.96.0.1", PORTS), service("web", "10.96.0.2")
    served.write("services.yaml", cart, web, pod("cart-1", "cart", "10.0.0.1"))
    served.write("filters.yaml", *texts)
    assert not [one.findings for one in served.config.mesh.records.values() if one.rejected]
    assert not served.view.failed
    return served


def chain(served: Served, name: str = CLUSTER_NAME) -> Any:
    return next(one for one in served.of(LISTENER)["main_internal"].filter_chains if one.name == name)


def manager(served: Served, name: str = CLUSTER_NAME) -> Any:
    return opened(chain(served, name).filters[-1].typed_config)


def row(served: Served, name: str = CLUSTER_NAME) -> list[str]:
    """The HTTP filters of a chain, without what stands before their names; those that judge together are one."""
    names = [one.name.removeprefix("envoy.filters.http.") for one in manager(served, name).http_filters]
    return [one for one, _ in groupby("rbac" if name.startswith("rbac.") else name for name in names)]


def problems(served: Served) -> list[str]:
    return [one.what for one in served.view.problems]


def sub(name: str) -> dict[str, Any]:
    """The filter of a connection manager, as a match names it."""
    return {"filter": {"name": MANAGER, "subFilter": {"name": name}}}


PLAIN = ["cors", "rbac", "fault", "grpc_stats", "router"]
SECURED = ["cors", "jwt_authn", "rbac", "fault", "grpc_stats", "router"]


@pytest.mark.parametrize(
    ("written", "without", "secured"),
    [
        (inserted(lua("")), "cors rbac fault grpc_stats lua router", "cors jwt_authn rbac fault grpc_stats lua router"),
        (patch("HTTP_FILTER", "ADD", lua("")), "cors rbac fault grpc_stats lua router", "cors jwt_authn rbac fault grpc_stats lua router"),
        (
            patch("HTTP_FILTER", "ADD", lua(""), "AUTHZ"),
            "cors rbac lua fault grpc_stats router",
            "cors jwt_authn rbac lua fault grpc_stats router",
        ),
        (
            patch("HTTP_FILTER", "ADD", lua(""), "STATS"),
            "cors rbac fault lua grpc_stats router",
            "cors jwt_authn rbac fault lua grpc_stats router",
        ),
        (
            patch("HTTP_FILTER", "ADD", LIMIT, "AUTHN"),
            "cors limit rbac fault grpc_stats router",
            "cors jwt_authn limit rbac fault grpc_stats router",
        ),
        (inserted(LIMIT, sub_filter=""), "limit cors rbac fault grpc_stats router", "limit cors jwt_authn rbac fault grpc_stats router"),
        (
            inserted(LIMIT, "INSERT_FIRST", ""),
            "limit cors rbac fault grpc_stats router",
            "limit cors jwt_authn rbac fault grpc_stats router",
        ),
        (
            inserted(LIMIT, "INSERT_AFTER", ""),
            "cors rbac fault grpc_stats limit router",
            "cors jwt_authn rbac fault grpc_stats limit router",
        ),
        (
            inserted(lua(""), "INSERT_AFTER", "envoy.filters.http.fault"),
            "cors rbac fault lua grpc_stats router",
            "cors jwt_authn rbac fault lua grpc_stats router",
        ),
        (
            inserted(lua(""), "INSERT_AFTER", "envoy.filters.http.rbac"),
            "cors rbac lua fault grpc_stats router",
            "cors jwt_authn rbac lua fault grpc_stats router",
        ),
        (
            inserted(LIMIT, sub_filter="envoy.filters.http.rbac"),
            "cors limit rbac fault grpc_stats router",
            "cors jwt_authn limit rbac fault grpc_stats router",
        ),
        (inserted(lua(""), sub_filter="nothing"), "", ""),
        (
            patch("HTTP_FILTER", "REMOVE", context="WAYPOINT", waypoint=sub("envoy.filters.http.fault")),
            "cors rbac grpc_stats router",
            "cors jwt_authn rbac grpc_stats router",
        ),
        (
            inserted(lua(""), "REPLACE", "envoy.filters.http.fault"),
            "cors rbac lua grpc_stats router",
            "cors jwt_authn rbac lua grpc_stats router",
        ),
        (inserted(lua(""), "REPLACE", "envoy.filters.http.rbac"), "", ""),
        (patch("HTTP_FILTER", "REMOVE", listener={"filterChain": sub("envoy.filters.http.jwt_authn")}), "", ""),
        (patch("HTTP_FILTER", "REMOVE", listener={"filterChain": sub(ROUTER)}), "", ""),
    ],
)
def test_where_http_filters_come_to_stand(written: dict[str, Any], without: str, secured: str) -> None:
    for policy, plain_row, expected in (("", PLAIN, without), (POLICY, SECURED, secured)):
        served = shop(policy, envoy_filter("one", written, services=("cart",)))
        assert row(served) == (expected.split() or plain_row)
        if expected or policy:
            assert bool(problems(served)) is not bool(expected), "what is not done is told"
        assert row(served, OTHER) == plain_row, "another service"


@pytest.mark.parametrize(
    "listener",
    [
        {"name": "main_internal"},
        {"portNumber": 80},
        {"filterChain": {"name": CLUSTER_NAME}},
        {"filterChain": sub(ROUTER)},
    ],
)
def test_what_listeners_match(listener: dict[str, Any]) -> None:
    served = shop(envoy_filter("one", patch("HTTP_FILTER", "INSERT_BEFORE", LIMIT, context="ANY", listener=listener)))
    assert "limit" in row(served)
    elsewhere = {"name": "other", "portNumber": 81, "filterChain": {"name": TCP, "sni": "x"}}
    for key, value in elsewhere.items():
        missed = patch("HTTP_FILTER", "INSERT_BEFORE", LIMIT, listener={key: value})
        assert row(shop(envoy_filter("one", missed))) == PLAIN
    assert row(shop(envoy_filter("one", patch("HTTP_FILTER", "ADD", LIMIT, context="GATEWAY")))) == PLAIN
    assert row(shop(envoy_filter("one", patch("HTTP_FILTER", "ADD", LIMIT, context="SIDECAR_INBOUND")))) == PLAIN


def test_order_among_objects() -> None:
    """The root namespace first, then by age; priorities before both."""

    def filters(name: str, namespace: str, **spec: Any) -> str:
        return envoy_filter(name, patch("HTTP_FILTER", "ADD", {**LIMIT, "name": name}), namespace=namespace, **spec)

    served = shop(
        filters("b", "shop"),
        filters("a", "shop"),
        filters("root", "istio-system"),
        filters("early", "shop", priority=-1),
        filters("late", "istio-system", priority=5),
    )
    assert row(served)[4:-1] == ["early", "root", "a", "b", "late"]


def test_whose_patches_hold_where() -> None:
    selected = envoy_filter("one", inserted(lua("")), workloadSelector={"labels": {"gateway.networking.k8s.io/gateway-name": "waypoint"}})
    assert "lua" in row(shop(selected))
    assert "lua" not in row(shop(selected.replace('"waypoint"}', '"other"}')))
    for target in (
        {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"},
        {"kind": "Service", "group": "", "name": "cart"},
    ):
        assert "lua" in row(shop(envoy_filter("one", inserted(lua("")), targetRefs=[target])))
    of_class = [{"kind": "GatewayClass", "group": "gateway.networking.k8s.io", "name": "istio-waypoint"}]
    assert "lua" in row(shop(envoy_filter("one", inserted(lua("")), namespace="istio-system", targetRefs=of_class)))
    assert "lua" in row(shop(envoy_filter("one", inserted(lua("")), namespace="istio-system")))
    assert row(shop(envoy_filter("one", inserted(lua("")), namespace="team"))) == PLAIN


def test_others_services_are_not_touched() -> None:
    """At a waypoint that serves services of several namespaces, a namespace's patches are for its own."""
    everything = (
        inserted(lua("")),
        patch("NETWORK_FILTER", "INSERT_FIRST", NETWORK_LIMIT),
        patch("FILTER_CHAIN", "MERGE", {"transport_socket_connect_timeout": "3s"}),
        patch("HTTP_ROUTE", "MERGE", {"route": {"timeout": "3s"}}),
        patch("VIRTUAL_HOST", "MERGE", {"include_request_attempt_count": True}),
        patch("ROUTE_CONFIGURATION", "MERGE", {"response_headers_to_remove": ["x"]}),
        patch("CLUSTER", "MERGE", {"connect_timeout": "3s"}),
    )
    own = GATEWAY.replace("listeners: [{name: mesh,", "listeners: [{name: mesh, allowedRoutes: {namespaces: {from: All}},")
    foreign = service("till", "10.96.1.1").replace("namespace: shop", "namespace: team")
    foreign = foreign.replace(
        "labels: {istio.io/use-waypoint: waypoint}", "labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: shop}"
    )
    served = Served()
    served.write("base.yaml", own, service("cart", "10.96.0.1"), foreign)

    def resources() -> dict[str, bytes]:
        listener = served.of(LISTENER)["main_internal"]
        found = {
            f"{kind}{name}": one.SerializeToString(deterministic=True)
            for kind in (ROUTES, CLUSTER)
            for name, one in served.of(kind).items()
        }
        return found | {one.name: one.SerializeToString(deterministic=True) for one in listener.filter_chains}

    before = resources()
    assert any("till" in name for name in before)
    for owner in ("shop", "team"):
        served.write("filters.yaml", envoy_filter("all", *everything, namespace=owner))
        changed = {name for name, body in resources().items() if before.get(name) != body}
        assert not [name for name in changed if "till" in name], "team's service, at a waypoint that is not team's"
        assert bool([name for name in changed if "cart" in name]) is (owner == "shop")
    served.write("filters.yaml", envoy_filter("all", *everything, namespace="istio-system"))
    assert any("till" in name for name, body in resources().items() if before.get(name) != body), "the root namespace's hold for all"


def test_network_filters() -> None:
    def tcp(*patches: dict[str, Any]) -> list[str]:
        return [one.name for one in chain(shop(envoy_filter("one", *patches)), TCP).filters]

    def limit(operation: str, name: str = "") -> dict[str, Any]:
        listener = {"portNumber": 82, "filterChain": {"filter": {"name": name}}} if name else {"portNumber": 82}
        return patch("NETWORK_FILTER", operation, None if operation == "REMOVE" else NETWORK_LIMIT, listener=listener)

    last = chain(shop(), TCP).filters[-1].name
    proxy = "envoy.filters.network.tcp_proxy"
    for written in (
        limit("ADD"),
        limit("INSERT_AFTER"),
        limit("INSERT_BEFORE", proxy),
        limit("INSERT_AFTER", proxy),
        limit("INSERT_FIRST"),
    ):
        assert tcp(written) == ["connections", last]
    assert tcp(limit("ADD"), limit("REMOVE", "connections")) == [last]
    assert tcp(limit("REMOVE", proxy)) == [last]
    merged = {"name": proxy, "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", idle_timeout="7s")}
    served = shop(envoy_filter("one", patch("NETWORK_FILTER", "MERGE", merged, listener={"filterChain": {"filter": {"name": proxy}}})))
    assert opened(chain(served, TCP).filters[-1].typed_config).idle_timeout.seconds == 7
    assert opened(chain(served, TCP).filters[-1].typed_config).cluster == TCP


def test_the_connection_manager() -> None:
    """The example of Istio's documents: an idle timeout into what is there."""
    value = {
        "name": MANAGER,
        "typed_config": typed(
            "filters.network.http_connection_manager.v3.HttpConnectionManager", common_http_protocol_options={"idle_timeout": "30s"}
        ),
    }
    served = shop(envoy_filter("one", patch("NETWORK_FILTER", "MERGE", value, listener={"filterChain": {"filter": {"name": MANAGER}}})))
    assert manager(served).common_http_protocol_options.idle_timeout.seconds == 30
    assert row(served) == PLAIN
    assert chain(served).filters[-1].name == "http"


def test_routes() -> None:
    def routes(*patches: dict[str, Any]) -> Any:
        return shop(envoy_filter("one", *patches, services=("cart",))).of(ROUTES)[CLUSTER_NAME]

    answer = {"name": "extra", "match": {"prefix": "/health"}, "direct_response": {"status": 204}}
    named = {"vhost": {"name": "cart.shop.svc.cluster.local:80", "route": {"name": "default", "action": "ROUTE"}}}
    names = lambda table: [one.name or "default" for one in table.virtual_hosts[0].routes]  # noqa: E731
    assert names(routes(patch("HTTP_ROUTE", "INSERT_FIRST", answer))) == ["extra", "default"]
    assert names(routes(patch("HTTP_ROUTE", "INSERT_BEFORE", answer, routeConfiguration=named))) == ["extra", "default"]
    assert names(routes(patch("HTTP_ROUTE", "INSERT_AFTER", answer, routeConfiguration=named))) == ["default", "extra"]
    assert names(routes(patch("HTTP_ROUTE", "ADD", answer))) == ["default", "extra"]
    assert names(routes(patch("HTTP_ROUTE", "REMOVE", context="WAYPOINT", waypoint={"route": {"name": "default"}}))) == []
    missed = {"vhost": {"route": {"name": "default", "action": "REDIRECT"}}}
    merge = {"route": {"timeout": "3s"}}
    assert routes(patch("HTTP_ROUTE", "MERGE", merge, routeConfiguration=missed)).virtual_hosts[0].routes[0].route.timeout.seconds == 0
    table = routes(patch("HTTP_ROUTE", "MERGE", merge, routeConfiguration=named))
    assert table.virtual_hosts[0].routes[0].route.timeout.seconds == 3
    assert table.virtual_hosts[0].routes[0].route.cluster == CLUSTER_NAME, "what is not stated stays"
    host = {"name": "more", "domains": ["more.example"], "routes": [answer]}
    assert [one.name for one in routes(patch("VIRTUAL_HOST", "ADD", host)).virtual_hosts] == ["cart.shop.svc.cluster.local", "more"]
    served = shop(envoy_filter("one", patch("VIRTUAL_HOST", "ADD", {**host, "domains": ["*"]})))
    assert len(served.of(ROUTES)[CLUSTER_NAME].virtual_hosts) == 1
    assert any("already" in one for one in problems(served))


def test_what_is_refused_ahead_of_policies_stays_ahead_of_routes() -> None:
    """Paths without a sure form are 400 whatever routes are patched in, also in hosts that are added."""
    policy = POLICY.replace("methods: [GET]", "paths: [/a]")
    answer = {"name": "extra", "match": {"prefix": "/"}, "direct_response": {"status": 204}}
    host = {"name": "more", "domains": ["more.example"], "routes": [answer]}
    served = shop(policy, envoy_filter("one", patch("HTTP_ROUTE", "INSERT_FIRST", answer), patch("VIRTUAL_HOST", "ADD", host)))
    for one in served.of(ROUTES)[CLUSTER_NAME].virtual_hosts:
        assert [route.name for route in one.routes][:3] == ["ambiguous", "ambiguous", "extra"]


def test_clusters() -> None:
    def cluster(*patches: dict[str, Any], name: str = CLUSTER_NAME) -> Any:
        return shop(envoy_filter("one", *patches)).of(CLUSTER).get(name)

    slow = {"connect_timeout": "3s", "circuit_breakers": {"thresholds": [{"max_requests": 7}]}}
    for match in ({}, {"service": "cart.shop.svc.cluster.local"}, {"portNumber": 80}, {"name": CLUSTER_NAME}):
        found = cluster(patch("CLUSTER", "MERGE", slow, cluster=match))
        assert (found.connect_timeout.seconds, found.name) == (3, CLUSTER_NAME)
    for match in ({"service": "web.shop.svc.cluster.local"}, {"portNumber": 81}, {"subset": "v1"}, {"name": OTHER}):
        assert cluster(patch("CLUSTER", "MERGE", slow, cluster=match)).connect_timeout.seconds == 10
    assert cluster(patch("CLUSTER", "MERGE", slow), name="connect_originate").connect_timeout.seconds != 3, "the path's own"
    assert cluster(patch("CLUSTER", "REMOVE", cluster={"service": "cart.shop.svc.cluster.local", "portNumber": 80})) is None
    assert cluster(patch("CLUSTER", "ADD", EXTRA), name="extra").connect_timeout.seconds == 1
    served = shop(envoy_filter("a", patch("CLUSTER", "ADD", EXTRA)), envoy_filter("b", patch("CLUSTER", "ADD", EXTRA)))
    assert any("a cluster extra already" in one for one in problems(served))
    options = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {"max_concurrent_streams": 5}})
    key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    found = cluster(patch("CLUSTER", "MERGE", {"typed_extension_protocol_options": {key: options}}))
    merged = opened(found.typed_extension_protocol_options[key])
    assert merged.explicit_http_config.http2_protocol_options.max_concurrent_streams.value == 5


def test_without_patches_nothing_is_made_again() -> None:
    served = shop()
    before = served.world.computed
    served.write("filters.yaml", envoy_filter("one", inserted(lua("")), services=("cart",)))
    cost = served.world.computed - before
    assert served.write("filters.yaml", envoy_filter("one", inserted(lua("x = 1")), services=("cart",))) == [{LISTENER: ("main_internal",)}]
    assert cost < 120


def test_a_gateway() -> None:
    edge = Edge(istio_gateway("edge", plain("[cart.example]")), bound("cart", "hosts: [cart.example], " + to("cart")))
    match = {"gateway": "infra/edge", "vhost": {"name": "cart.example:80"}}
    hops = typed("filters.network.http_connection_manager.v3.HttpConnectionManager", xff_num_trusted_hops=2)
    patches = (
        patch("HTTP_FILTER", "INSERT_BEFORE", lua(""), context="GATEWAY", listener={"filterChain": sub(ROUTER)}),
        patch(
            "NETWORK_FILTER",
            "MERGE",
            {"name": MANAGER, "typed_config": hops},
            context="GATEWAY",
            listener={"portNumber": 80, "filterChain": {"filter": {"name": MANAGER}}},
        ),
        patch(
            "LISTENER",
            "MERGE",
            {"listener_filters": [{"name": "proxy", "typed_config": typed("filters.listener.proxy_protocol.v3.ProxyProtocol")}]},
            context="GATEWAY",
        ),
        patch("VIRTUAL_HOST", "MERGE", {"include_request_attempt_count": True}, context="GATEWAY", routeConfiguration=match),
        patch("CLUSTER", "MERGE", {"connect_timeout": "3s"}, context="GATEWAY", cluster={"service": "cart.shop.svc.cluster.local"}),
        patch("CLUSTER", "ADD", EXTRA, context="GATEWAY"),
    )
    edge.write("filters.yaml", envoy_filter("all", *patches, namespace="infra", workloadSelector={"labels": {"istio": "ingress"}}))
    (listener,) = (one for name, one in edge.of(LISTENER).items() if name == "0.0.0.0_80")
    found = opened(listener.filter_chains[0].filters[-1].typed_config)
    assert (found.xff_num_trusted_hops, [one.name for one in found.http_filters][-2:]) == (2, ["envoy.filters.http.lua", ROUTER])
    assert [one.name for one in listener.listener_filters] == ["proxy"]
    assert edge.of(ROUTES)["http.80"].virtual_hosts[0].include_request_attempt_count
    assert edge.of(CLUSTER)[CLUSTER_NAME].connect_timeout.seconds == 3, "as the gateway calls it, whoever's it is"
    assert "extra" in edge.of(CLUSTER)
    edge.write("filters.yaml", envoy_filter("all", *patches, namespace="shop", workloadSelector={"labels": {"istio": "ingress"}}))
    assert "extra" not in edge.of(CLUSTER), "a gateway is its own namespace's to patch"


def test_envoy_takes_all_of_it(tmp_path: Path) -> None:
    served = shop(
        POLICY,
        envoy_filter(
            "all",
            inserted(lua("function envoy_on_request(handle) end")),
            inserted(LIMIT, sub_filter=""),
            inserted(http_filter("buffer", "buffer.v3.Buffer", max_request_bytes=1000)),
            inserted(http_filter("mutate", "header_mutation.v3.HeaderMutation", mutations={"request_mutations": [{"remove": "x"}]})),
            patch("NETWORK_FILTER", "INSERT_FIRST", NETWORK_LIMIT),
            patch("FILTER_CHAIN", "MERGE", {"transport_socket_connect_timeout": "3s"}),
            patch("HTTP_ROUTE", "MERGE", {"route": {"timeout": "3s"}}),
            patch("VIRTUAL_HOST", "MERGE", {"rate_limits": [{"actions": [{"remote_address": {}}]}]}),
            patch("ROUTE_CONFIGURATION", "MERGE", {"response_headers_to_remove": ["x"]}),
            patch("CLUSTER", "MERGE", {"connect_timeout": "3s"}),
            patch("CLUSTER", "ADD", EXTRA),
        ),
    )
    validate(tmp_path, served.view)
    view = ProxyView(served.world, ProxyKey("shop", "waypoint"))
    assert messages(view, CLUSTER).keys() >= {"extra"}
