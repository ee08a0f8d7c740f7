"""DestinationRules as requests and connections see them: a real Envoy with what the controller makes of them."""

import http.client
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.control.envoy.authority import Authority
from tests.control.envoy.echo import Upstream, upstream
from tests.control.envoy.routed import Routed, echo_service, routed, until
from tests.control.envoy.test_waypoint import Served, pod, service

PLAIN = {"v1": "10.0.0.1", "v2": "10.0.0.2", "v3": "10.0.0.3"}
WARM = {"v1": "10.0.3.1", "v2": "10.0.3.2", "v3": "10.0.3.3"}
"""Those of a service of which the third comes later."""
HASH = "trafficPolicy: {loadBalancer: {consistentHash: {%s}}}"
AT_THREE = range(3, 6)
"""Envoy's worker hears of an ejection a moment after it."""
EJECT = "outlierDetection: {consecutive5xxErrors: 3, interval: 100ms, baseEjectionTime: 60s, maxEjectionPercent: 100}"
FORMER = "outlierDetection: {http: {consecutiveErrors: 3, interval: 100ms, baseEjectionTime: 60s, maxEjectionPercent: 100}}"
RULES = {
    "turns": "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}",
    "least": "trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}",
    "ports": """
      trafficPolicy:
        loadBalancer: {consistentHash: {httpHeaderName: x-user}}
        portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: ROUND_ROBIN}}]
    """,
    "chance": "trafficPolicy: {loadBalancer: {simple: RANDOM}}",
    "header": HASH % "httpHeaderName: x-user",
    "query": HASH % "httpQueryParameterName: user, maglev: {tableSize: 101}",
    "cookie": HASH % "httpCookie: {name: stick, path: /, ttl: 60s}",
    "source": HASH % "useSourceIp: true, minimumRingSize: 64",
    "limits": "trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}",
    "short": "trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}",
    "eject": f"trafficPolicy: {{{EJECT}, loadBalancer: {{simple: ROUND_ROBIN, localityLbSetting: {{enabled: false}}}}}}",
    "former": f"trafficPolicy: {{{FORMER}, loadBalancer: {{simple: ROUND_ROBIN, localityLbSetting: {{enabled: false}}}}}}",
    "subsets": """
      trafficPolicy: {loadBalancer: {simple: RANDOM}}
      subsets:
      - {name: one, labels: {version: v1}}
      - {name: three, labels: {version: v3}}
      - {name: turns, labels: {app: echo}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
    """,
    "slow": "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 6s, minimumPercent: 10}}}",
    "tcp": "",
    "matched": "",
    "secret": "trafficPolicy: {tls: {mode: SIMPLE, credentialName: partner, sni: good.example.com}}",
    "wrong": "trafficPolicy: {tls: {mode: SIMPLE, credentialName: partner, sni: good.example.com, subjectAltNames: [bad.example.com]}}",
    "system": "trafficPolicy: {tls: {mode: SIMPLE, sni: good.example.com}}",
    "open": """
      trafficPolicy:
        tls: {mode: SIMPLE, credentialName: partner, sni: good.example.com}
        portLevelSettings: [{port: {number: 81}, tls: {mode: DISABLE}}]
    """,
    "blind": "trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}",
    "mutual": "trafficPolicy: {tls: {mode: MUTUAL, credentialName: partner, sni: good.example.com}}",
    "unknown": "trafficPolicy: {tls: {mode: SIMPLE, credentialName: partner, sni: good.example.com}}",
    "lost": "trafficPolicy: {tls: {mode: SIMPLE, credentialName: nowhere, sni: good.example.com}}",
    "workload": "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}",
    "stranger": "trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/other']}}",
    "near": f"trafficPolicy: {{{EJECT}}}",
    "region": f"trafficPolicy: {{{EJECT}, loadBalancer: {{localityLbSetting: {{failover: [{{from: r, to: r3}}]}}}}}}",
    "labels": f"trafficPolicy: {{{EJECT}, loadBalancer: {{localityLbSetting: {{failoverPriority: [version=v2]}}}}}}",
    "shares": """
      trafficPolicy:
        loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {distribute: [{from: r/*, to: {r/z: 75, r2/*: 25}}]}}
    """,
    "ignored": f"trafficPolicy: {{{EJECT}, loadBalancer: {{simple: ROUND_ROBIN, localityLbSetting: {{enabled: false}}}}}}",
}
TWO_PORTS = "[{name: http, port: 80, targetPort: 8080}, {name: http-too, port: 81, targetPort: 8080}]"
TCP_PORTS = ", ".join(f"{{name: tcp-{port}, port: {port}, targetPort: 8080}}" for port in (80, 81, 82))
PORTS = {"tcp": "[{name: tcp, port: 80, targetPort: 8080}]", "matched": f"[{TCP_PORTS}]", "ports": TWO_PORTS, "open": TWO_PORTS}
TLS_SERVICES = ("secret", "wrong", "system", "blind", "lost")
NODES = "\n---\n".join(
    f"kind: Node\napiVersion: v1\nmetadata:\n  name: n{n}\n"
    f"  labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: z}}"
    for n, region in ((2, "r2"), (3, "r3"))
)
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: %s, namespace: shop}
spec:
  hosts: [%s]
  %s
"""


CONNECTIONS = """tcp:
  - {match: [{port: 80, destinationSubnets: [192.0.2.0/24]}], route: [{destination: {host: subsets, subset: three}}]}
  - match: [{port: 80, destinationSubnets: [10.96.0.0/12]}, {port: 82}]
    route: [{destination: {host: subsets, port: {number: 80}, subset: one}}]
  - {match: [{port: 81}], route: [{destination: {host: subsets, port: {number: 80}, subset: three}}]}
"""


def rule(name: str, text: str) -> str:
    head = (
        f"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  host: {name}\n"
    )
    return head + textwrap.indent(textwrap.dedent(text.strip("\n")), "  ")


def warm(version: str) -> str:
    return pod(f"warm-{version}", "slow", WARM[version], mesh="none")


def away(version: str, address: str, node: str) -> str:
    """An echo pod on a node of another region."""
    return pod(f"echo-{version}", "echo", address, mesh="none").replace("version: v1", f"version: {version}").replace("n1", node)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    where = tmp_path_factory.mktemp("envoy")
    authority, foreign = Authority(where), Authority(tmp_path_factory.mktemp("foreign"))
    workload = "spiffe://cluster.local/ns/shop/sa/%s"
    with ExitStack() as stack:
        servers = {name: stack.enter_context(upstream(name)) for name in PLAIN}
        tls = stack.enter_context(upstream("tls", authority.server("good.example.com")))
        asks = stack.enter_context(upstream("asks", authority.server("good.example.com", ask=True)))
        other = stack.enter_context(upstream("other", foreign.server("good.example.com")))
        own = stack.enter_context(upstream("own", authority.server(workload % "own", ask=True)))
        served = Served()
        served.write("nodes.yaml", NODES)
        pods = [away(name, address, f"n{name[1:]}") for name, address in PLAIN.items()]
        # Where the waypoint is: the near one is v1.
        served.write("echo.yaml", service("waypoint", "10.96.255.1", label="none"), pod("w", "waypoint", "10.0.1.1"), *pods)
        places: dict[str, Upstream] = {address: servers[name] for known in (PLAIN, WARM) for name, address in known.items()}
        special = dict.fromkeys(TLS_SERVICES, tls) | {"mutual": asks, "unknown": other, "workload": own, "stranger": own}
        texts = []
        for index, name in enumerate(RULES):
            if name == "slow":
                texts += [service(name, f"10.96.1.{index + 1}"), warm("v1"), warm("v2")]
            elif name in special:
                texts += [service(name, f"10.96.1.{index + 1}"), pod(name, name, f"10.0.2.{index + 1}", mesh="none")]
                places[f"10.0.2.{index + 1}"] = special[name]
            else:
                texts.append(echo_service(name, index + 1, PORTS.get(name, "[{name: http, port: 80, targetPort: 8080}]")))
        served.write("services.yaml", *texts)
        for name, text in RULES.items():
            if text:
                served.write(f"{name}.yaml", rule(name, text))
        weights = "tcp: [{route: [{destination: {host: subsets, subset: one}, weight: 60}, {destination: {host: turns}, weight: 40}]}]"
        served.write("routes.yaml", ROUTE % ("tcp", "tcp", weights))
        served.write("matched.yaml", ROUTE % ("matched", "matched", CONNECTIONS))
        subset = "http: [{match: [{uri: {prefix: /turns}}], route: [{destination: {host: subsets, subset: turns}}]}]"
        served.write("subset.yaml", ROUTE % ("subsets", "subsets", subset))
        secrets = [
            authority.secret("kubernetes://shop/partner", "client.example.com"),
            authority.roots("kubernetes://shop/partner-cacert"),
            authority.secret("default", workload % "waypoint"),
            authority.roots("ROOTCA"),
        ]
        yield stack.enter_context(routed(where, served, places, secrets, moving=["slow"]))


def test_by_turns(mesh: Routed) -> None:
    assert mesh.counted("turns", 30) == {"v1": 10, "v2": 10, "v3": 10}
    assert mesh.counted("subsets", 30, "/turns") == {"v1": 10, "v2": 10, "v3": 10}, "a subset has its own policy"


def test_who_has_fewer_requests_gets_the_next(mesh: Routed) -> None:
    """Of two that are drawn: the busy one is called only where both draws are it."""
    with ThreadPoolExecutor(1) as pool:
        before = {name: one.seen["/held"] for name, one in mesh.upstreams.items()}
        held = pool.submit(mesh.ask, "least", "/held", x_wait_s="3")
        until(lambda: any(one.seen["/held"] > before[name] for name, one in mesh.upstreams.items()))
        counted = mesh.counted("least", 120)
        assert not held.done()
        assert (
            counted.get(held.result().upstream, 0) <= 28 < min(count for name, count in counted.items() if name != held.result().upstream)
        )


def test_a_port_has_settings_of_its_own(mesh: Routed) -> None:
    assert len(mesh.counted("ports", 12, x_user="ann")) == 1
    assert mesh.counted("ports:81", 12, x_user="ann") == {"v1": 4, "v2": 4, "v3": 4}


def test_by_chance(mesh: Routed) -> None:
    counted = mesh.counted("chance", 90)
    assert set(counted) == {"v1", "v2", "v3"}
    assert max(counted.values()) < 60


@pytest.mark.parametrize("name", ["header", "query"])
def test_one_user_has_one_endpoint_and_users_are_spread(mesh: Routed, name: str) -> None:
    chosen = {}
    for user in map(str, range(20)):
        found = {mesh.ask(name, f"/?user={user}", x_user=user).upstream for _ in range(4)}
        assert len(found) == 1
        chosen[user] = found.pop()
    assert len(set(chosen.values())) == 3


def test_a_cookie_is_given_and_kept_to(mesh: Routed) -> None:
    first = mesh.ask("cookie")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith("stick=")
    assert "Max-Age=60" in cookie
    assert "Path=/" in cookie
    assert {mesh.ask("cookie", cookie=cookie.partition(";")[0]).upstream for _ in range(10)} == {first.upstream}


def test_by_source_address(mesh: Routed) -> None:
    assert len(mesh.counted("source", 20)) == 1


def test_what_is_beyond_the_limits_is_refused_at_once(mesh: Routed) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(mesh.ask("limits", x_wait_s="1").status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = Counter(found)
    # Envoy gives each of the three endpoints a connection at least; one request waits, at first for the first connection.
    assert 1 <= counted[200] <= 4
    assert counted[200] + counted[503] == 8


def test_connections_that_are_used_once(mesh: Routed) -> None:
    before = sum(one.connections for one in mesh.upstreams.values())
    mesh.counted("short", 10)
    assert sum(one.connections for one in mesh.upstreams.values()) - before == 10


def test_an_endpoint_that_fails_is_set_aside(mesh: Routed) -> None:
    v2 = mesh.upstreams["v2"]
    v2.failing = 500
    try:
        first = mesh.counted("eject", 12)
        assert first["500"] in AT_THREE
        asked = v2.seen["/"]
        assert set(mesh.counted("eject", 20)) == {"v1", "v3"}
        assert v2.seen["/"] == asked
    finally:
        v2.failing = 0


def test_errors_of_the_way_as_they_were_counted_formerly(mesh: Routed) -> None:
    v2 = mesh.upstreams["v2"]
    try:
        v2.failing = 500
        assert mesh.counted("former", 12)["500"] == 4, "an application's own error is none of them"
        v2.failing, before = 503, v2.seen["/"]
        # Whoever gets one is tried again elsewhere.
        assert mesh.counted("former", 24).keys() == {"v1", "v3"}
        assert v2.seen["/"] - before in AT_THREE
    finally:
        v2.failing = 0


def test_connections_are_shared_by_weight(mesh: Routed) -> None:
    counted: Counter[str] = Counter()
    for _ in range(60):
        connection = http.client.HTTPConnection("127.0.0.1", mesh.envoy.ports["tcp:80/tcp"], timeout=20)
        connection.request("GET", "/")
        counted[b"v1" if b'"v1"' in connection.getresponse().read() else b"other"] += 1
        connection.close()
    assert counted[b"v1"] >= 36
    assert counted[b"other"] >= 6


@pytest.mark.parametrize(("port", "expected"), [(80, "v1"), (81, "v3"), (82, "v1")])
def test_connections_go_by_port_and_destination(mesh: Routed, port: int, expected: str) -> None:
    assert {mesh.ask(f"matched:{port}/tcp").upstream for _ in range(4)} == {expected}


def test_simple_tls_verifies_and_names_the_server(mesh: Routed) -> None:
    found = mesh.ask("secret")
    assert (found.upstream, found.echo["sni"]) == ("tls", "good.example.com")
    for name in ("wrong", "system", "unknown"):
        assert mesh.ask(name).status == 503, name
    assert mesh.ask("blind").upstream == "tls"


def test_a_port_is_called_without_tls_where_a_rule_says_so(mesh: Routed) -> None:
    assert mesh.ask("open").status == 503, "its endpoints know no TLS"
    assert mesh.ask("open:81").status == 200


def test_a_secret_that_is_not_there_is_missed_by_nobody_else(mesh: Routed) -> None:
    """Envoy has started, which everything else here shows."""
    assert mesh.ask("lost").status == 503


def test_mutual_tls_shows_the_secret_of_the_rule(mesh: Routed) -> None:
    assert mesh.ask("mutual").echo["client"] == ["client.example.com"]


def test_istio_mutual_shows_the_proxys_own_identity(mesh: Routed) -> None:
    assert mesh.ask("workload").echo["client"] == ["spiffe://cluster.local/ns/shop/sa/waypoint"]
    assert mesh.ask("stranger").status == 503


def test_the_near_ones_come_first_and_others_when_they_fail(mesh: Routed) -> None:
    v1, v3 = mesh.upstreams["v1"], mesh.upstreams["v3"]
    assert mesh.counted("near", 20) == {"v1": 20}
    assert mesh.counted("labels", 20) == {"v2": 20}
    assert set(mesh.counted("ignored", 20)) == {"v1", "v2", "v3"}
    v1.failing = 500
    try:
        assert mesh.counted("near", 12)["500"] in AT_THREE
        assert set(mesh.counted("near", 30)) == {"v2", "v3"}
        # Envoy's workers are told of what is set aside at most once a second.
        until(lambda: mesh.counted("region", 3) == {"v3": 3})
        assert mesh.counted("region", 20) == {"v3": 20}, "to where its region fails over"
        v3.failing = 500
        until(lambda: mesh.counted("region", 3) == {"v2": 3})
        assert mesh.counted("region", 20) == {"v2": 20}
    finally:
        v1.failing = v3.failing = 0


def test_shares_of_places(mesh: Routed) -> None:
    counted = mesh.counted("shares", 80)
    assert counted.keys() == {"v1", "v2"}
    assert 57 <= counted["v1"] <= 63


def test_a_new_endpoint_gets_its_full_share_after_a_while(mesh: Routed) -> None:
    """Of its service alone, whose first endpoints are there for as long as the other tests took."""
    mesh.served.write("warm.yaml", warm("v3"))
    mesh.tell("slow")
    until(lambda: "v3" in mesh.counted("slow", 20))
    counted = mesh.counted("slow", 90)
    assert counted["v3"] <= 20 < min(counted["v1"], counted["v2"]), "a third would be 30"
    until(lambda: mesh.counted("slow", 30) == {"v1": 10, "v2": 10, "v3": 10})
