"""control/model/waypoint_findings.py: what is said of waypoints, services and policies that miss each other."""

import pytest

from control.model.status import objects
from tests.control.model.builders import Config
from tests.control.model.waypoint_world import API, GATE_SERVICE, GUARD, NAMESPACE, POD, USE, gateway, pod, policy, waypoint


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
