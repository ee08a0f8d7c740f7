"""control/model/waypoint_guards.py: what a waypoint's policies protect is reached through it alone."""

import pytest

from meshapi.authorization import Action, Exact, Match, PolicyScope
from tests.control.model.builders import Config
from tests.control.model.waypoint_world import API, API_KEY, GATE_SERVICE, GUARD, USE, gateway, pod, policy, waypoint


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
