"""Which waypoint services and workloads are bound to, what keeps them from it, and what guards them against a way around it."""

from ipaddress import ip_address

import pytest

from control.kinds.gateway import LabelRequirement, LabelSelector
from control.model.status import objects
from control.model.waypoints import label_selector_matches
from meshapi.authorization import Action, Exact, Match, PolicyScope
from meshapi.workload import GatewayAddress, NetworkAddress, ServiceKey
from tests.control.model.builders import Config

NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, team: a%s}}
---
"""
API = """
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop, labels: {%s}}
spec: {clusterIP: 10.96.0.1, selector: {app: api}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {%s}}
spec: {nodeName: n1, serviceAccountName: %s, containers: [{name: c, ports: [{name: web, containerPort: 8080}, {containerPort: 9102}]}]}
status: {phase: Running, podIP: %s, conditions: [{type: Ready, status: "True"}]}
---
"""
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: %s, labels: {%s}}
spec:
  gatewayClassName: %s
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {%s}}}]
---
"""
GATE_SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: %s}
spec: {clusterIP: 10.96.0.9, selector: {is: gate}, ports: [{name: mesh, port: 15008}]}
---
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: %s}
spec: {targetRefs: [{kind: %s, name: %s}], action: %s, rules: [{to: [{operation: {methods: [GET]}}]}]}
---
"""
USE = "istio.io/use-waypoint: gate"
API_KEY = "shop/api.shop.svc.cluster.local"
GATE = GatewayAddress(service=ServiceKey("shop/gate.shop.svc.cluster.local"))
GUARD = "shop/only_through_waypoint_service_api"


def pod(name: str = "api", namespace: str = "shop", labels: str = "app: api", account: str = "api", ip: str = "10.0.0.1") -> str:
    return POD % (name, namespace, labels, account, ip)


def gateway(namespace: str = "shop", labels: str = "", kind: str = "istio-waypoint", origin: str = "from: Same", name: str = "gate") -> str:
    return GATEWAY % (name, namespace, labels, kind, origin)


def waypoint(namespace: str = "shop", labels: str = "", origin: str = "from: Same") -> str:
    """A waypoint that runs: its Gateway, service and pod."""
    return gateway(namespace, labels, origin=origin) + GATE_SERVICE % namespace + pod("gate", namespace, "is: gate", "gate", "10.0.0.9")


def policy(kind: str = "Service", name: str = "api", namespace: str = "shop", action: str = "ALLOW") -> str:
    return POLICY % (namespace, kind, name, action)


@pytest.mark.parametrize(
    ("namespace", "own", "is_bound"),
    [
        ("", USE, True),
        (f", {USE}", "", True),
        (f", {USE}", "istio.io/use-waypoint: none", False),
        (", istio.io/use-waypoint: other", USE, True),
        (f", {USE}", "istio.io/use-waypoint: other", False),
        ("", "", False),
        (", istio.io/use-waypoint: none", "", False),
    ],
)
def test_the_own_label_wins_over_the_namespaces(namespace: str, own: str, is_bound: bool) -> None:
    config = Config(NAMESPACE % namespace + API % own + waypoint())
    assert config.service(API_KEY).waypoint == (GATE if is_bound else None)


@pytest.mark.parametrize(
    ("traffic", "service", "workload"),
    [
        ("", True, False),
        ("service", True, False),
        ("workload", False, True),
        ("all", True, True),
        ("none", False, False),
        ("x", False, False),
    ],
)
def test_what_a_waypoint_is_for(traffic: str, service: bool, workload: bool) -> None:
    labels = f"istio.io/waypoint-for: {traffic}" if traffic else ""
    config = Config(NAMESPACE % f", {USE}" + API % "" + pod() + waypoint(labels=labels))
    assert config.service(API_KEY).waypoint == (GATE if service else None)
    assert config.pod("shop", "api").waypoint == (GATE if workload else None)
    # A waypoint is not reached through itself.
    assert config.service("shop/gate.shop.svc.cluster.local").waypoint is None
    assert config.pod("shop", "gate").waypoint is None


@pytest.mark.parametrize(
    ("origin", "is_bound"),
    [
        ("from: Same", False),
        ("", False),
        ("from: All", True),
        ("from: Selector, selector: {matchLabels: {team: a}}", True),
        ("from: Selector, selector: {matchLabels: {team: b}}", False),
        ("from: Selector", False),
        ("from: Anything", False),
    ],
)
def test_a_waypoint_of_another_namespace_takes_whom_it_allows(origin: str, is_bound: bool) -> None:
    labels = f"{USE}, istio.io/use-waypoint-namespace: infra"
    config = Config(NAMESPACE % "" + API % labels + waypoint("infra", origin=origin))
    expected = GatewayAddress(service=ServiceKey("infra/gate.infra.svc.cluster.local"))
    assert config.service(API_KEY).waypoint == (expected if is_bound else None)


ADDRESSED = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec: {gatewayClassName: nodemesh-waypoint, addresses: [%s], listeners: []}
status: {addresses: [%s]}
---
"""


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        ("", "{type: Hostname, value: w.shop.svc.cluster.local}", GatewayAddress(service=ServiceKey("shop/w.shop.svc.cluster.local"))),
        (
            "",
            "{value: 10.96.0.7}, {type: Hostname, value: w.shop.svc.cluster.local}",
            GatewayAddress(service=ServiceKey("shop/w.shop.svc.cluster.local")),
        ),
        ("{value: 10.0.0.8}", "", GatewayAddress(address=NetworkAddress(ip_address("10.0.0.8")))),
        ("{value: 10.0.0.8}", "{value: 'fd00::8'}", GatewayAddress(address=NetworkAddress(ip_address("fd00::8")))),
        ("{value: 127.0.0.1}", "", None),
        ("", "", None),
    ],
)
def test_where_a_waypoint_is(spec: str, status: str, expected: GatewayAddress | None) -> None:
    config = Config(API % USE + ADDRESSED % (spec, status))
    assert config.service(API_KEY).waypoint == expected


def test_any_class_may_take_tunnels_and_others_are_no_waypoints() -> None:
    assert Config(API % USE + gateway(kind="somebodys") + GATE_SERVICE % "shop").service(API_KEY).waypoint == GATE
    plain = gateway(kind="istio").replace("HBONE", "HTTP")
    assert Config(API % USE + plain + GATE_SERVICE % "shop").service(API_KEY).waypoint is None


def test_waypoints_come_and_go() -> None:
    config = Config(API % USE + pod())
    assert config.service(API_KEY).waypoint is None
    config.write("gate.yaml", gateway())
    assert config.service(API_KEY).waypoint is None
    config.write("service.yaml", GATE_SERVICE % "shop")
    assert config.service(API_KEY).waypoint == GATE
    config.write("gate.yaml", gateway(labels="istio.io/waypoint-for: workload"))
    assert config.service(API_KEY).waypoint is None
    config.write("gate.yaml", "")
    assert config.service(API_KEY).waypoint is None


def test_an_application_with_the_name_of_a_waypoint_elsewhere_is_not_taken_for_it() -> None:
    config = Config(
        API % "istio.io/use-waypoint: api" + pod() + ADDRESSED.replace("name: gate", "name: api") % ("{value: 10.0.0.8}", "") + policy()
    )
    assert config.service(API_KEY).waypoint == GatewayAddress(address=NetworkAddress(ip_address("10.0.0.8")))
    assert config.policy(GUARD).rules[0][0][0].not_principals == (Exact("cluster.local/ns/shop/sa/api"),)


def test_service_entries_and_workload_entries_are_bound_too() -> None:
    entries = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: ext, namespace: shop, labels: {{{USE}, istio.io/ingress-use-waypoint: "true"}}}}
spec: {{hosts: [ext.example], addresses: [10.97.0.1], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: vm, namespace: shop, labels: {{{USE}}}}}
spec: {{address: 10.0.0.3, serviceAccount: vm}}
---
"""
    config = Config(entries + waypoint(labels="istio.io/waypoint-for: all"))
    assert config.service("shop/ext.example").waypoint == GATE
    assert config.service("shop/ext.example").ingress_use_waypoint
    assert config.workload("Kubernetes/networking.istio.io/WorkloadEntry/shop/vm").waypoint == GATE


# ---- guards


def test_who_is_protected_by_a_waypoints_policies_takes_connections_from_the_waypoint_only() -> None:
    config = Config(API % USE + pod() + waypoint())
    assert GUARD not in config.policies
    config.write("policy.yaml", policy())
    guard = config.policy(GUARD)
    assert (guard.scope, guard.action) == (PolicyScope.WORKLOAD_SELECTOR, Action.DENY)
    assert guard.rules == (((Match(not_principals=(Exact("cluster.local/ns/shop/sa/gate"),), destination_ports=(8080,)),),),)
    assert config.pod("shop", "api").authorization_policies == (GUARD,)
    assert config.pod("shop", "gate").authorization_policies == ()
    assert config.service(API_KEY).ingress_use_waypoint
    config.write("policy.yaml", "")
    assert not config.service(API_KEY).ingress_use_waypoint
    assert GUARD not in config.policies
    assert config.pod("shop", "api").authorization_policies == ()


@pytest.mark.parametrize(
    ("kind", "name", "namespace", "action", "is_guarded"),
    [
        ("Service", "api", "shop", "DENY", True),
        ("Service", "api", "shop", "CUSTOM", True),
        ("Service", "api", "shop", "AUDIT", False),
        ("Service", "other", "shop", "ALLOW", False),
        ("Service", "api", "other", "ALLOW", False),
        ("Gateway", "gate", "shop", "ALLOW", True),
        ("Gateway", "other", "shop", "ALLOW", False),
        ("GatewayClass", "istio-waypoint", "istio-system", "ALLOW", True),
        ("GatewayClass", "nodemesh-waypoint", "istio-system", "ALLOW", False),
    ],
)
def test_which_policies_protect(kind: str, name: str, namespace: str, action: str, is_guarded: bool) -> None:
    text = policy(kind, name, namespace, action)
    if action == "CUSTOM":
        text = text.replace("action: CUSTOM", "action: CUSTOM, provider: {name: x}")
    config = Config(API % USE + pod() + waypoint() + text)
    assert (GUARD in config.policies) == is_guarded
    assert (GUARD in config.pod("shop", "api").authorization_policies) == is_guarded


def test_a_policy_on_trial_protects_nothing() -> None:
    text = policy().replace("namespace: shop", 'namespace: shop, annotations: {istio.io/dry-run: "true"}')
    assert GUARD not in Config(API % USE + pod() + waypoint() + text).policies


@pytest.mark.parametrize(
    ("label", "gate"),
    [
        ("", ""),
        (USE, ""),
        (USE, gateway()),
        (USE, waypoint(labels="istio.io/waypoint-for: workload")),
        (f"{USE}, istio.io/use-waypoint-namespace: infra", waypoint("infra")),
        ("istio.io/use-waypoint: none", waypoint()),
    ],
)
def test_where_no_waypoint_enforces_the_policies_nobody_is_let_in(label: str, gate: str) -> None:
    config = Config(API % label + pod() + gate + policy())
    assert config.service(API_KEY).waypoint is None
    assert config.policy(GUARD).rules == (((Match(destination_ports=(8080,)),),),)
    assert config.pod("shop", "api").authorization_policies == (GUARD,)


def test_a_waypoint_is_known_by_the_account_of_its_name_and_those_of_its_workloads() -> None:
    def let_in(*accounts: str) -> bool:
        return config.policy(GUARD).rules[0][0][0].not_principals == tuple(Exact(f"cluster.local/ns/shop/sa/{one}") for one in accounts)

    config = Config(API % USE + pod() + gateway() + GATE_SERVICE % "shop" + policy())
    assert let_in("gate")
    config.write("gate.yaml", pod("g1", "shop", "is: gate", "robot", "10.0.0.9"))
    assert let_in("gate", "robot")
    config.write("gate.yaml", pod("g1", "shop", "gateway.networking.k8s.io/gateway-name: gate", "hand", "10.0.0.9"))
    assert let_in("gate", "hand")
    config.write("gate.yaml", pod("g1", "other", "gateway.networking.k8s.io/gateway-name: gate", "hand", "10.0.0.9"))
    assert let_in("gate")


def test_a_policy_for_a_gateway_that_is_missing_closes_what_asks_for_it() -> None:
    config = Config(API % USE + pod() + policy("Gateway", "gate"))
    assert config.policy(GUARD).rules == (((Match(destination_ports=(8080,)),),),)


def test_workloads_are_guarded_on_all_ports_by_the_policies_of_their_own_waypoint() -> None:
    gate = "shop/only_through_waypoint_gateway_gate"
    config = Config(
        API % "" + pod(labels=f"app: api, {USE}") + waypoint(labels="istio.io/waypoint-for: workload") + policy("Gateway", "gate")
    )
    assert config.pod("shop", "api").authorization_policies == (gate,)
    assert config.policy(gate).rules == (((Match(not_principals=(Exact("cluster.local/ns/shop/sa/gate"),)),),),)


def test_tokens_that_only_a_waypoint_can_check_protect_like_policies() -> None:
    tokens = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: t, namespace: shop}
spec: {targetRefs: [{kind: Service, name: api}], jwtRules: [{issuer: me, jwksUri: "https://keys.example/k"}]}
---
"""
    assert GUARD in Config(API % USE + pod() + waypoint() + tokens).policies


@pytest.mark.parametrize(("more", "is_guarded"), [("", True), ("onFailure: deny, ", True), ("onFailure: allow, ", False)])
def test_limits_are_not_gone_around_unless_they_may_be_missed(more: str, is_guarded: bool) -> None:
    spec = f"{{targetRefs: [{{kind: Service, name: api}}], {more}rules: [{{limit: {{requests: 1, per: day}}}}]}}"
    limit = f"---\nkind: RateLimit\napiVersion: nodemesh.io/v1alpha1\nmetadata: {{name: l, namespace: shop}}\nspec: {spec}\n"
    config = Config(API % USE + pod() + gateway() + GATE_SERVICE % "shop" + limit)
    assert config.pod("shop", "api").authorization_policies == ((GUARD,) if is_guarded else ())


def test_a_policy_that_can_not_be_read_protects_what_it_names() -> None:
    config = Config(API % USE + pod() + waypoint())
    config.write("policy.yaml", policy().replace("methods", "verbs"))
    assert GUARD in config.policies


# ---- what is said about it


def said(config: Config, kind: str, name: str, namespace: str = "shop") -> list[str]:
    (found,) = objects(config.mesh, kind, namespace, name).objects
    return [one.message.partition(": ")[2] for one in found.conditions if one.type == "Warnings"]


@pytest.mark.parametrize(
    ("label", "gate", "words"),
    [
        (USE, "", "the waypoint shop/gate does not exist"),
        (USE, gateway(), "the waypoint shop/gate has no address yet, and no service of its name"),
        (USE, waypoint(labels="istio.io/waypoint-for: workload"), "the waypoint shop/gate is for workload, not for services"),
        (
            f"{USE}, istio.io/use-waypoint-namespace: infra",
            waypoint("infra"),
            "the waypoint infra/gate does not take traffic of namespace shop",
        ),
        (USE, waypoint(), ""),
        ("", waypoint(), ""),
    ],
)
def test_a_service_says_why_it_is_not_reached_through_a_waypoint(label: str, gate: str, words: str) -> None:
    config = Config(NAMESPACE % "" + API % label + pod() + gate + policy())
    assert said(config, "Service", "api") == ([f"is not reached through a waypoint: {words}"] if words else [])
    told = said(config, "AuthorizationPolicy", "p")
    if label and not words:
        assert told == []
    else:
        why = words or "it asks for none"
        assert told == [f"no waypoint enforces it for Service shop/api: {why}; its workloads take no connections for it"]


def test_what_a_namespace_asks_for_and_a_waypoint_is_not_for_needs_no_words() -> None:
    config = Config(NAMESPACE % f", {USE}" + API % "" + pod() + waypoint())
    assert said(config, "Pod", "api") == []
    assert said(config, "Service", "api") == []


def test_a_policy_says_when_it_protects_nothing_or_sees_waypoints_for_clients() -> None:
    config = Config(API % USE + pod() + waypoint() + policy("Service", "nothing") + gateway(name="idle"))
    assert said(config, "AuthorizationPolicy", "p") == ["Service shop/nothing does not exist"]
    config.write("p.yaml", policy("Gateway", "idle").replace("name: p,", "name: q,"))
    assert said(config, "AuthorizationPolicy", "q") == ["nothing is reached through Gateway shop/idle"]
    by_client = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: s, namespace: shop}
spec: {selector: {matchLabels: {app: api}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}
"""
    config.write("s.yaml", by_client)
    assert said(config, "AuthorizationPolicy", "s") == [
        "what comes through the waypoint shop/gate has that for its source, not the client behind it"
    ]
    for_all = by_client.replace("selector: {matchLabels: {app: api}}, ", "")
    config.write("s.yaml", for_all)
    assert len(said(config, "AuthorizationPolicy", "s")) == 1
    config.write("s.yaml", for_all.replace("namespace: shop", "namespace: other"))
    assert said(config, "AuthorizationPolicy", "s", "other") == []


def test_a_policy_says_when_nothing_keeps_callers_from_going_around() -> None:
    config = Config(NAMESPACE % "" + API % USE + pod() + waypoint() + policy())
    assert said(config, "AuthorizationPolicy", "p") == []
    config.write("other.yaml", pod("outside", labels="app: api, istio.io/dataplane-mode: none", ip="10.0.0.2"))
    assert said(config, "AuthorizationPolicy", "p") == [
        "1 of the workloads behind Service shop/api take no tunnels: outside the mesh nothing keeps callers from going around"
    ]


def test_services_of_two_waypoints_with_the_same_workloads_let_in_both_where_they_share_a_port() -> None:
    second = API.replace("name: api", "name: twin").replace("10.96.0.1", "10.96.0.2") % "istio.io/use-waypoint: other"
    other = gateway(name="other") + GATE_SERVICE.replace("name: gate", "name: other").replace("10.96.0.9", "10.96.0.8") % "shop"
    config = Config(NAMESPACE % "" + API % USE + pod() + waypoint() + other + policy())

    def let_in() -> dict[tuple[int, ...], set[str]]:
        """By ports: whom the guard of the first service lets in."""
        matches = [match for rule in config.policy(GUARD).rules for clause in rule for match in clause]
        return {one.destination_ports: {name.value.rpartition("/")[2] for name in one.not_principals} for one in matches}

    config.write("second.yaml", second)
    assert said(config, "Service", "api") == []
    assert let_in() == {(8080,): {"gate"}}, "nothing protects the other one: its waypoint is a way around"
    config.write("twin.yaml", policy(name="twin").replace("name: p,", "name: q,"))
    assert let_in() == {(8080,): {"gate", "other"}}
    (words,) = said(config, "Service", "api")
    assert words.startswith("shares workloads with Service shop/twin: at ports of both what comes through its waypoint shop/other meets")
    config.write("second.yaml", second.replace("targetPort: 8080", "targetPort: 9102"))
    assert let_in() == {(8080,): {"gate"}}, "no port of both"
    config.write("second.yaml", second)
    assert let_in() == {(8080,): {"gate", "other"}}
    config.write("a.yaml", NAMESPACE % "" + API % USE + pod(labels="app: elsewhere") + waypoint() + other + policy())
    assert let_in() == {(8080,): {"gate"}}, "no workload of both"
    config.write("a.yaml", NAMESPACE % "" + API % USE + pod() + waypoint() + other + policy())
    assert let_in() == {(8080,): {"gate", "other"}}
    config.write("second.yaml", "")
    assert let_in() == {(8080,): {"gate"}}
    config.write("second.yaml", second)
    config.write("twin.yaml", "")
    assert let_in() == {(8080,): {"gate"}}


def test_a_gateway_says_that_its_pods_must_not_be_captured() -> None:
    config = Config(NAMESPACE % "" + waypoint())
    assert said(config, "Gateway", "gate") == [
        "1 of its workloads are captured themselves, and take no tunnels for others: label them istio.io/dataplane-mode=none"
    ]
    config.write("a.yaml", NAMESPACE % "" + waypoint().replace("labels: {is: gate}", "labels: {is: gate, istio.io/dataplane-mode: none}"))
    assert said(config, "Gateway", "gate") == []


def test_a_gateway_says_who_else_has_its_account_and_which_of_its_workloads_have_not() -> None:
    own = waypoint().replace("labels: {is: gate}", "labels: {is: gate, istio.io/dataplane-mode: none}")
    config = Config(NAMESPACE % "" + own)
    config.write("other.yaml", POD % ("thief", "shop", "app: thief", "gate", "10.0.0.7"))
    assert said(config, "Gateway", "gate") == [
        "1 other workloads run as its account, which is all that can be asked for: they pass wherever only it may"
    ]
    config.write("other.yaml", POD % ("gate-2", "shop", "is: gate, istio.io/dataplane-mode: none", "default", "10.0.0.7"))
    assert said(config, "Gateway", "gate") == ["1 of its workloads run as another account than gate: they get no configuration"]


def test_a_policy_for_waypoints_counts_who_is_behind_them() -> None:
    config = Config(API % USE + pod() + waypoint() + policy())
    (found,) = objects(config.mesh, "AuthorizationPolicy", "shop", "p").objects
    assert found.bound == 1


# ---- ports and labels


def test_named_ports_are_those_of_the_pods() -> None:
    named = API.replace("targetPort: 8080", "targetPort: web") % USE
    config = Config(named + waypoint() + policy())
    assert config.policy(GUARD).rules == ()
    config.write("pod.yaml", pod())
    assert config.policy(GUARD).rules[0][0][0].destination_ports == (8080,)
    config.write("pod.yaml", pod().replace("containerPort: 8080", "containerPort: 8081"))
    assert config.policy(GUARD).rules[0][0][0].destination_ports == (8081,)


def test_pods_that_a_slice_lists_by_address_are_guarded_at_its_ports() -> None:
    listing = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, namespace: %s, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: http, port: 7070}]
---
"""
    config = Config(API.replace("selector: {app: api}, ", "") % USE + pod() + waypoint() + policy())
    assert config.pod("shop", "api").authorization_policies == ()
    config.write("slice.yaml", listing % "shop")
    assert config.pod("shop", "api").authorization_policies == (GUARD,)
    assert config.policy(GUARD).rules[0][0][0].destination_ports == (7070, 8080)
    named = API % USE + pod().replace("app: api", "app: other") + waypoint() + policy()
    config.write("a.yaml", named)
    assert config.pod("shop", "api").authorization_policies == ()
    config.write("a.yaml", named.replace("selector: {app: api}, ", ""))
    assert config.pod("shop", "api").authorization_policies == (GUARD,)
    # Nobody guards what is another namespace's.
    config.write("slice.yaml", (API.replace("selector: {app: api}, ", "") % "").replace("namespace: shop", "namespace: x") + listing % "x")
    config.write("policy.yaml", policy(namespace="x").replace("name: p,", "name: q,"))
    assert config.pod("shop", "api").authorization_policies == ()


def test_label_expressions() -> None:
    def matches(operator: str, *values: str) -> bool:
        return label_selector_matches(LabelSelector(match_expressions=(LabelRequirement("team", operator, values),)), {"team": "a"})

    assert [matches("In", "a", "b"), matches("In", "b"), matches("NotIn", "b"), matches("NotIn", "a")] == [True, False, True, False]
    assert [matches("Exists"), matches("DoesNotExist"), matches("Near")] == [True, False, False]
    assert label_selector_matches(LabelSelector(), {})
