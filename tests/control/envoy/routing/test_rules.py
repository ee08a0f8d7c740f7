"""Which rules hold where, and what becomes of those that do not: read from what a waypoint is served, and judged by Envoy itself."""

from pathlib import Path

import pytest

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from control.envoy.messages import Message, message_class
from control.envoy.naming import Layer
from control.envoy.parts import HTTP_OPTIONS
from control.envoy.place import Place
from control.envoy.routes import http_routes, tcp_target
from control.validation.routing_checks import covering
from tests.control.envoy.test_waypoint import WAYPOINT, Served, pod, service
from tests.control.envoy.validation import validate

CART = "shop/cart.shop.svc.cluster.local"
NAME = "inbound-vip|80|http|cart.shop.svc.cluster.local"
HTTP = "http: [{route: [{destination: {host: other}}]}]"


def virtual_service(name: str, spec: str, namespace: str = "shop", made: str = "2030-01-01T00:00:00Z") -> str:
    return f"""
    kind: VirtualService
    apiVersion: networking.istio.io/v1
    metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "{made}"}}
    spec: {{{spec}}}
"""


def rule(name: str, spec: str, namespace: str = "shop", made: str = "2030-01-01T00:00:00Z") -> str:
    return virtual_service(name, spec, namespace, made).replace("VirtualService", "DestinationRule")


def served(*texts: str) -> Served:
    found = Served()
    found.write("cart.yaml", service("cart", "10.96.0.1"), service("other", "10.96.0.2"), pod("cart-1", "cart", "10.0.0.1"))
    found.write("rules.yaml", *texts)
    return found


def leads_to(found: Served) -> str:
    return str(found.of(ROUTES)[NAME].virtual_hosts[0].routes[0].route.cluster).rpartition("|")[2].partition(".")[0]


def problems(found: Served) -> list[str]:
    table = http_routes(found.world, Place(WAYPOINT, CART, 80))
    assert table is not None
    return [f"{one.object.namespace}/{one.object.name} {one.what}" for one in table.routes.problems]


@pytest.mark.parametrize(
    "hosts", ["[cart]", "[cart.shop.svc.cluster.local]", "['*.shop.svc.cluster.local']", "['*.local']", "[10.96.0.1]", "[elsewhere, cart]"]
)
def test_hosts_that_mean_a_service(hosts: str) -> None:
    assert leads_to(served(virtual_service("v", f"hosts: {hosts}, {HTTP}"))) == "other"


@pytest.mark.parametrize(
    "hosts", ["[card]", "[cart.other.svc.cluster.local]", "['*.other.svc.cluster.local']", "[10.96.0.2]", "[cart.shop]"]
)
def test_hosts_that_do_not(hosts: str) -> None:
    assert leads_to(served(virtual_service("v", f"hosts: {hosts}, {HTTP}"))) == "cart"


@pytest.mark.parametrize(
    ("namespace", "spec", "expected"),
    [
        ("evil", "hosts: [cart.shop.svc.cluster.local]", "cart"),
        ("istio-system", "hosts: [cart.shop.svc.cluster.local]", "missing"),
        ("istio-system", "hosts: ['*.local'], exportTo: [.]", "cart"),
        ("istio-system", "hosts: ['*.local'], exportTo: [shop]", "missing"),
        ("shop", "hosts: [cart], exportTo: [.]", "other"),
        ("shop", "hosts: [cart], exportTo: [elsewhere]", "cart"),
        ("shop", "hosts: [cart], gateways: [edge]", "cart"),
        ("shop", "hosts: [cart], gateways: [edge, mesh]", "other"),
        ("shop", "hosts: [cart], gateways: [mesh]", "other"),
    ],
)
def test_whose_rules_hold(namespace: str, spec: str, expected: str) -> None:
    """Nobody but its own namespace and the root's decides where requests to a service go."""
    found = served(virtual_service("v", f"{spec}, {HTTP}", namespace))
    cluster = str(found.of(ROUTES)[NAME].virtual_hosts[0].routes[0].route.cluster)
    assert ("missing" if cluster.startswith("missing|") else leads_to(found)) == expected


def test_the_more_exact_host_wins_then_the_older_rule() -> None:
    exact = virtual_service("exact", f"hosts: [cart], {HTTP}", made="2031-01-01T00:00:00Z")
    wide = virtual_service("wide", "hosts: ['*.shop.svc.cluster.local'], http: [{directResponse: {status: 403}}]")
    found = served(wide, exact)
    assert leads_to(found) == "other"
    assert problems(found) == [
        "shop/wide has no effect on cart.shop.svc.cluster.local: VirtualService shop/exact names it more exactly, or is older"
    ]
    older = virtual_service("older", "hosts: [cart], http: [{directResponse: {status: 403}}]", made="2029-01-01T00:00:00Z")
    found.write("older.yaml", older)
    assert found.of(ROUTES)[NAME].virtual_hosts[0].routes[0].direct_response.status == 403


def test_what_leads_nowhere_is_said() -> None:
    spec = "hosts: [cart], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: cart}}]}, {%s}]"
    assert problems(served(virtual_service("v", spec % "route: [{destination: {host: nobody}}]"))) == [
        "shop/v there is no service nobody.shop.svc.cluster.local that namespace shop may name",
    ]
    assert problems(served(virtual_service("v", spec % "route: [{destination: {host: cart, subset: x}}]"))) == [
        "shop/v no DestinationRule for cart.shop.svc.cluster.local has a subset x"
    ]
    assert (
        problems(served(virtual_service("v", spec % "delegate: {name: x}")))[0]
        == "shop/v the delegate shop/x is not there: nothing stands in its place"
    )


def test_clients_with_labels_that_come_and_go_change_the_routes_that_ask_for_them() -> None:
    spec = "hosts: [cart], http: [{match: [{sourceLabels: {app: page, tier: gold}}], route: [{destination: {host: other}}]}]"
    found = served(virtual_service("v", spec))
    page = pod("page-1", "page", "10.9.0.1").replace("app: page,", "app: page, tier: gold,")

    def conditions() -> list[Message]:
        (route,) = found.of(ROUTES)[NAME].virtual_hosts[0].routes
        return list(route.match.filter_state)

    (nobody,) = conditions()
    assert nobody.string_match.exact == "nobody", "the route stays, so that the others are not taken in meanwhile"
    assert found.write("page.yaml", page) == [{ROUTES: (NAME,)}]
    state, address = conditions()
    assert state.string_match.safe_regex.regex == r"spiffe://cluster\.local/ns/shop/sa/page"
    assert [one.address_prefix for one in address.address_match.ranges] == ["10.9.0.1"]
    assert found.write("silver.yaml", page.replace("page-1", "page-2").replace("gold", "silver").replace("9.0.1", "9.0.2")) == []
    assert found.write("page.yaml", page.replace("gold", "silver")) == [{ROUTES: (NAME,)}]
    assert conditions() == [nobody]


def test_a_rule_without_routes_for_a_port_leaves_it_as_it_is() -> None:
    assert (
        leads_to(served(virtual_service("v", "hosts: [cart], http: [{match: [{port: 81}], route: [{destination: {host: other}}]}]")))
        == "cart"
    )
    assert leads_to(served(virtual_service("v", "hosts: [cart], tcp: [{route: [{destination: {host: other}}]}]"))) == "cart"


def test_a_rule_that_changes_touches_what_it_is_about() -> None:
    found = served(virtual_service("v", f"hosts: [cart], {HTTP}"))
    before = found.world.computed
    changes = found.write("rules.yaml", virtual_service("v", "hosts: [cart], http: [{timeout: 1s, route: [{destination: {host: other}}]}]"))
    assert changes == [{ROUTES: (NAME,)}]
    assert found.world.computed - before < 25
    assert found.write("rule.yaml", rule("d", "host: other, trafficPolicy: {loadBalancer: {simple: RANDOM}}"))[0].keys() == {CLUSTER}


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("{}", "other"),
        ("{port: 90}", "other"),
        ("{port: 91}", "cart"),
        ("{destinationSubnets: [10.96.0.0/16]}", "other"),
        ("{destinationSubnets: [10.97.0.0/16]}", "cart"),
        ("{sourceSubnet: 10.0.0.0/8}", "cart"),
        ("{sourceLabels: {a: b}}", "cart"),
        ("{gateways: [edge]}", "cart"),
    ],
)
def test_tcp_conditions(match: str, expected: str) -> None:
    found = Served()
    ports = "[{name: tcp, port: 90}]"
    found.write("cart.yaml", service("cart", "10.96.0.1", ports), service("other", "10.96.0.2", ports))
    found.write(
        "rules.yaml", virtual_service("v", f"hosts: [cart], tcp: [{{match: [{match}], route: [{{destination: {{host: other}}}}]}}]")
    )
    target = tcp_target(found.world, Place(WAYPOINT, CART, 90))
    assert target is not None
    assert [ref.hostname.partition(".")[0] for ref in target.clusters] == [expected]
    assert all(ref.layer is Layer.TCP for ref in target.clusters)


def test_which_destination_rules_hold() -> None:
    def balancer(*texts: str) -> str:
        cluster = served(*texts).of(CLUSTER)[NAME]
        return str(cluster.LbPolicy.Name(cluster.lb_policy))

    spec = "host: cart.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: %s}}"
    assert balancer() == "LEAST_REQUEST"
    assert balancer(rule("d", spec % "RANDOM")) == "RANDOM"
    assert balancer(rule("d", spec % "RANDOM", "evil")) == "LEAST_REQUEST"
    assert balancer(rule("d", spec % "RANDOM", "istio-system")) == "RANDOM"
    assert balancer(rule("d", spec % "RANDOM", "istio-system"), rule("e", spec % "ROUND_ROBIN")) == "ROUND_ROBIN"
    assert balancer(rule("d", spec % "RANDOM" + ", exportTo: [x]")) == "LEAST_REQUEST"
    assert balancer(rule("d", spec % "RANDOM" + ", workloadSelector: {matchLabels: {a: b}}")) == "LEAST_REQUEST"
    wide = rule("w", "host: '*.shop.svc.cluster.local', trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}")
    assert balancer(wide) == "ROUND_ROBIN"
    assert balancer(wide, rule("d", spec % "RANDOM")) == "RANDOM"
    # Passed through to what was dialled, it would come back to the waypoint.
    assert balancer(rule("d", spec % "PASSTHROUGH")) == "LEAST_REQUEST"


def test_a_port_s_settings_replace_all_and_a_subset_s_only_what_they_name() -> None:
    spec = """host: cart,
      trafficPolicy: {
        loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 7}},
        portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]},
      subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}}]"""
    to_subset = virtual_service("v", "hosts: [cart], http: [{route: [{destination: {host: cart, subset: v1}}]}]")
    found = served(rule("d", spec)).of(CLUSTER)[NAME]
    assert found.LbPolicy.Name(found.lb_policy) == "ROUND_ROBIN"
    assert found.circuit_breakers.thresholds[0].max_connections.value == (1 << 32) - 1
    found = served(rule("d", spec), to_subset).of(CLUSTER)["inbound-vip|80|http/v1|cart.shop.svc.cluster.local"]
    assert found.LbPolicy.Name(found.lb_policy) == "ROUND_ROBIN"
    assert found.circuit_breakers.thresholds[0].max_connections.value == 3


def test_several_rules_for_one_host_are_one() -> None:
    one = rule("a", "host: cart, subsets: [{name: v1, labels: {version: v1}}]", made="2029-01-01T00:00:00Z")
    two = rule("b", "host: cart, subsets: [{name: v1, labels: {version: x}}, {name: v2, labels: {version: v2}}]")
    weights = "http: [{route: [{destination: {host: cart, subset: v1}, weight: 50}, {destination: {host: cart, subset: v2}, weight: 50}]}]"
    found = served(one, two, virtual_service("v", f"hosts: [cart], {weights}"))
    sizes = {name: len(message.endpoints) for name, message in found.of(ENDPOINTS).items() if "/v" in name}
    assert sizes == {
        "inbound-vip|80|http/v1|cart.shop.svc.cluster.local": 1,
        "inbound-vip|80|http/v2|cart.shop.svc.cluster.local": 0,
    }


def test_tls_of_a_rule_goes_through_the_tunnel() -> None:
    found = served(rule("d", "host: cart, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}")).of(CLUSTER)[NAME]
    tunnel, plain = found.transport_socket_matches
    inner = message_class("envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport").FromString(
        tunnel.transport_socket.typed_config.value
    )
    assert inner.transport_socket == plain.transport_socket
    assert plain.transport_socket.name == "tls"
    mutual = served(rule("d", "host: cart, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")).of(CLUSTER)[NAME]
    assert mutual.transport_socket_matches[0] == served().of(CLUSTER)[NAME].transport_socket_matches[0], "the tunnel is mutual TLS already"
    assert mutual.transport_socket_matches[1].transport_socket.name == "tls", "and nothing goes in plaintext"


@pytest.mark.parametrize(
    ("pool", "field"),
    [
        ("useClientProtocol: true", "use_downstream_protocol_config"),
        ("h2UpgradePolicy: UPGRADE", "http2_protocol_options"),
        ("h2UpgradePolicy: DO_NOT_UPGRADE", "http_protocol_options"),
        ("idleTimeout: 7s", "use_downstream_protocol_config"),
    ],
)
def test_protocols(pool: str, field: str) -> None:
    found = served(rule("d", f"host: cart, trafficPolicy: {{connectionPool: {{http: {{{pool}}}}}}}")).of(CLUSTER)[NAME]
    options = message_class(HTTP_OPTIONS).FromString(found.typed_extension_protocol_options[HTTP_OPTIONS].value)
    holder = options if field.startswith("use_") else options.explicit_http_config
    assert holder.HasField(field)


def entry(name: str, spec: str) -> str:
    return f"""
    kind: ServiceEntry
    apiVersion: networking.istio.io/v1
    metadata: {{name: {name}, namespace: shop, labels: {{istio.io/use-waypoint: waypoint}}}}
    spec: {{addresses: [10.97.0.{len(name)}], ports: [{{number: 80, name: http, protocol: HTTP}}], location: MESH_EXTERNAL, {spec}}}
"""


def test_names_are_looked_up_by_envoy() -> None:
    found = served(
        entry("a", "hosts: [a.example.com], resolution: DNS"),
        entry("bb", "hosts: [b.example.com], resolution: DNS_ROUND_ROBIN"),
        entry(
            "ccc",
            "hosts: ['*.example.org'], resolution: DNS, endpoints: [{address: x.example.org, ports: {http: 8080}}, {address: 10.9.9.9}]",
        ),
        entry("dddd", "hosts: [d.example.com], resolution: STATIC, endpoints: [{address: 10.9.9.8}]"),
        entry("eeeee", "hosts: [e.example.com], resolution: NONE"),
    )
    clusters = found.of(CLUSTER)

    def told(host: str) -> tuple[str, list[tuple[str, int]]]:
        cluster = clusters[f"inbound-vip|80|http|{host}"]
        sockets = [one.endpoint.address.socket_address for place in cluster.load_assignment.endpoints for one in place.lb_endpoints]
        return cluster.DiscoveryType.Name(cluster.type), sorted((one.address, one.port_value) for one in sockets)

    assert told("a.example.com") == ("STRICT_DNS", [("a.example.com", 80)])
    assert told("b.example.com") == ("LOGICAL_DNS", [("b.example.com", 80)])
    assert told("*.example.org") == ("STRICT_DNS", [("10.9.9.9", 80), ("x.example.org", 8080)])
    assert told("d.example.com") == ("EDS", [])
    assert told("e.example.com") == ("ORIGINAL_DST", [])
    assert "inbound-vip|80|http|a.example.com" not in found.of(ENDPOINTS)


def test_envoy_takes_all_of_it(tmp_path: Path) -> None:
    policies = {
        "warm": "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 10, aggression: 2}}",
        "warmer": "loadBalancer: {warmupDurationSecs: 60s}",
        "ring": "loadBalancer: {consistentHash: {httpCookie: {name: a, path: /, ttl: 0s}, ringHash: {minimumRingSize: 2048}}}",
        "maglev": "loadBalancer: {consistentHash: {httpHeaderName: x, maglev: {tableSize: 65537}}}",
        "tcp": "connectionPool: {tcp: {maxConnections: 1, connectTimeout: 5s, tcpKeepalive: {probes: 3, time: 60s, interval: 5s},"
        " idleTimeout: 5s}}",
        "http": "connectionPool: {tcp: {maxConnectionDuration: 1h}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 2,"
        " maxRequestsPerConnection: 3, maxRetries: 4, idleTimeout: 5s, maxConcurrentStreams: 6}}",
        "outlier": "outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3, "
        " consecutiveGatewayErrors: 4, consecutive5xxErrors: 0, interval: 1s,"
        " baseEjectionTime: 30s, maxEjectionPercent: 50, minHealthPercent: 20}",
        "budget": "retryBudget: {percent: 30, minRetryConcurrency: 5}",
        "proxied": "proxyProtocol: {version: V2}, tls: {mode: SIMPLE, insecureSkipVerify: true}",
        "mutual": "tls: {mode: MUTUAL, credentialName: c, sni: x.example.com, subjectAltNames: [x.example.com, 'spiffe://a/b']}",
        "system": "tls: {mode: SIMPLE, caCertificates: system}",
        "workload": "tls: {mode: ISTIO_MUTUAL}",
        "distribute": "loadBalancer: {localityLbSetting: {distribute: [{from: '*', to: {'r/*': 100}}]}}",
    }
    found = served(
        *(service(name, f"10.96.2.{index + 1}") for index, name in enumerate(policies)),
        *(rule(name, f"host: {name}, trafficPolicy: {{{policy}}}") for name, policy in policies.items()),
        entry("ccc", "hosts: ['*.example.org'], resolution: DNS, endpoints: [{address: x.example.org}]"),
        rule("dns", "host: '*.example.org', trafficPolicy: {tls: {mode: SIMPLE}}"),
        virtual_service("v", "hosts: [cart], http: [{match: [{uri: {regex: '/(" + "|".join(f"word{n}" for n in range(90)) + ")/.*'}}], "
        "retries: {attempts: 3, retryOn: 'gateway-error,429', retryRemoteLocalities: true, perTryTimeout: 1s, backoff: 25ms}, "
        "route: [{destination: {host: cart}}]}]"),
    )  # fmt: skip
    assert found.view.failed == {}
    validate(tmp_path, found.view)


def test_names_that_cover_a_host() -> None:
    assert covering("a.b.c") == ("a.b.c", "*.b.c", "*.c", "*")
    assert covering("*.b.c") == ("*.b.c", "*.c", "*")
    assert covering("10.0.0.1") == ("10.0.0.1", "*")


def test_server_names_choose_a_chain(tmp_path: Path) -> None:
    found = Served()
    ports = "[{name: tls, port: 443}, {name: any, port: 444}]"
    found.write("cart.yaml", service("cart", "10.96.0.1", ports), service("other", "10.96.0.2", ports))
    to = "route: [{destination: {host: other}}]"
    hosts = "hosts: [cart, a.example.com, '*.example.org']"
    names = (
        f"{{match: [{{sniHosts: [a.example.com]}}], {to}}}, {{match: [{{port: 443, sniHosts: ['*.example.org', a.example.com]}}], {to}}}"
    )
    found.write("rules.yaml", virtual_service("v", f"{hosts}, tls: [{names}]"))
    listener = found.of(LISTENER)["main_internal_sniffing"]
    chains = {one.name for one in listener.filter_chains if "|tcp|cart" in one.name}
    base = "inbound-vip|443|tcp|cart.shop.svc.cluster.local"
    other = base.replace("443", "444")
    assert chains == {base, f"{base}~0", f"{base}~1", other, f"{other}~0"}
    assert [one.name for one in listener.listener_filters] == ["original_dst", "tls_inspector", "http_inspector"]
    text = str(listener.filter_chain_matcher)
    assert text.count('suffix: ".example.org"') == 1, "a name that a rule had before is not asked for again"
    assert "inbound-vip|443|tcp|other.shop.svc.cluster.local" in found.of(CLUSTER)
    validate(tmp_path, found.view)


def test_delegates_that_would_multiply_are_left_out() -> None:
    matches = ", ".join(f"{{uri: {{exact: /{number}}}}}" for number in range(120))
    inner = virtual_service("team", f"http: [{{match: [{matches}], route: [{{destination: {{host: other}}}}]}}]")
    to_team = f"{{match: [{matches}], delegate: {{name: team}}}}"
    found = served(inner, virtual_service("v", f"hosts: [cart], http: [{to_team}, {{route: [{{destination: {{host: cart}}}}]}}]"))
    assert problems(found) == ["shop/v more than 10000 conditions come together in its delegates: the rest is left out"]
    assert leads_to(found) == "cart"


def test_a_service_that_wants_the_near_ones_first_gets_them() -> None:
    found = Served()
    node = "kind: Node\napiVersion: v1\nmetadata: {name: n2, labels: {topology.kubernetes.io/region: other}}"
    far = pod("cart-2", "cart", "10.0.0.2").replace("n1", "n2")
    there = service("waypoint", "10.96.255.1", label="none"), pod("w", "waypoint", "10.0.1.1")
    found.write("waypoint.yaml", node, *there)

    def priorities(text: str) -> dict[str, int]:
        found.write("cart.yaml", text, pod("cart-1", "cart", "10.0.0.1"), far)
        return {one.locality.region: one.priority for one in found.of(ENDPOINTS)[NAME].endpoints}

    plain = service("cart", "10.96.0.1")
    assert priorities(plain) == {"r": 0, "other": 0}
    assert priorities(plain.replace("spec: {", "spec: {trafficDistribution: PreferClose, ")) == {"r": 0, "other": 1}


def test_the_former_count_of_errors_means_what_it_meant() -> None:
    found = served(rule("d", "host: cart, trafficPolicy: {outlierDetection: {consecutiveErrors: 4}}")).of(CLUSTER)[NAME].outlier_detection
    assert (found.consecutive_gateway_failure.value, found.enforcing_consecutive_gateway_failure.value) == (4, 100)
    assert found.enforcing_consecutive_5xx.value == 0
