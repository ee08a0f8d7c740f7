"""How AuthorizationPolicies become what node agents enforce, and that nothing on the way widens them."""

from ipaddress import ip_network
from typing import Any

import msgspec
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import AuthorizationPolicy
from control.model.authorization import convert
from meshapi import wire
from meshapi.authorization import (
    Action,
    Exact,
    Match,
    Policy,
    PolicyScope,
    Prefix,
    Present,
    ServiceAccountMatch,
    Suffix,
)
from meshapi.proto import authorization_pb2
from tests.control.model.builders import ROOT, Config


def authorization(spec: str, namespace: str = "shop", annotations: str = "{}") -> str:
    return f"""
        apiVersion: security.istio.io/v1
        kind: AuthorizationPolicy
        metadata: {{name: p, namespace: {namespace}, annotations: {annotations}}}
        spec: {spec}
        """


def converted(spec: str, namespace: str = "shop", annotations: str = "{}") -> Policy:
    return Config(authorization(spec, namespace, annotations)).policy(f"{namespace}/p")


def test_a_policy_on_the_wire() -> None:
    config = Config(
        authorization(
            "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{from: [{source: {principals: ['cluster.local/ns/a/sa/b', '*']}},"
            " {source: {notIpBlocks: ['10.0.0.0/8']}}], to: [{operation: {ports: ['80']}}],"
            " when: [{key: source.namespace, notValues: [x*]}]}]}",
            annotations="{istio.io/dry-run: 'true'}",
        )
    )
    resource = config.mesh.get(wire.AUTHORIZATION_TYPE, "shop/p")
    assert resource is not None
    expected = text_format.Parse(
        r"""
        name: "p"
        namespace: "shop"
        scope: WORKLOAD_SELECTOR
        action: DENY
        rules {
          clauses { matches { destination_ports: 80 } }
          clauses {
            matches { principals { exact: "cluster.local/ns/a/sa/b" } principals { presence {} } }
            matches { not_source_ips { address: "\n\000\000\000" length: 8 } }
          }
          clauses { matches { not_namespaces { prefix: "x" } } }
        }
        dry_run: true
        """,
        authorization_pb2.Authorization(),
    )
    assert text_format.MessageToString(authorization_pb2.Authorization.FromString(resource.body)) == text_format.MessageToString(expected)


@pytest.mark.parametrize(
    ("spec", "namespace", "scope"),
    [
        ("{}", "shop", PolicyScope.NAMESPACE),
        ("{}", ROOT, PolicyScope.GLOBAL),
        ("{selector: {matchLabels: {a: b}}}", "shop", PolicyScope.WORKLOAD_SELECTOR),
        ("{selector: {matchLabels: {a: b}}}", ROOT, PolicyScope.WORKLOAD_SELECTOR),
    ],
)
def test_scope(spec: str, namespace: str, scope: PolicyScope) -> None:
    assert converted(spec, namespace).scope is scope


@pytest.mark.parametrize(
    ("spec", "action", "rules"),
    [
        ("{}", Action.ALLOW, ()),
        ("{action: ALLOW, rules: []}", Action.ALLOW, ()),
        ("{rules: [{}]}", Action.ALLOW, ((),)),
        ("{action: DENY, rules: [{}]}", Action.DENY, ((),)),
        ("{action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: [/a]}}]}]}", Action.DENY, ((),)),
    ],
)
def test_nothing_and_everything(spec: str, action: Action, rules: tuple[object, ...]) -> None:
    policy = converted(spec)
    assert (policy.action, policy.rules) == (action, rules)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("principals: [a*, '*b', c, '*', 'd*e']", Match(principals=(Prefix("a"), Suffix("b"), Exact("c"), Present(), Exact("d*e")))),
        ("notPrincipals: ['*']", Match(not_principals=(Present(),))),
        ("namespaces: [a.b, 'x[y]']", Match(namespaces=(Exact("a.b"), Exact("x[y]")))),
        ("notNamespaces: ['*-test']", Match(not_namespaces=(Suffix("-test"),))),
        ("ipBlocks: [10.1.2.3, 10.0.0.1/8, '::1/128']", Match(source_ips=tuple(map(ip_network, ("10.1.2.3", "10.0.0.0/8", "::1"))))),
        ("notIpBlocks: ['fd00::/8']", Match(not_source_ips=(ip_network("fd00::/8"),))),
        (
            "serviceAccounts: [web, other/db]",
            Match(service_accounts=(ServiceAccountMatch("shop", "web"), ServiceAccountMatch("other", "db"))),
        ),
        ("notServiceAccounts: [web]", Match(not_service_accounts=(ServiceAccountMatch("shop", "web"),))),
    ],
)
def test_sources(source: str, match: Match) -> None:
    assert converted(f"{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}").rules == (((match,),),)


@pytest.mark.parametrize(
    ("condition", "match"),
    [
        ("key: source.ip, values: [10.0.0.1]", Match(source_ips=(ip_network("10.0.0.1"),))),
        ("key: source.ip, notValues: [10.0.0.1]", Match(not_source_ips=(ip_network("10.0.0.1"),))),
        ("key: source.namespace, values: [a], notValues: [b]", Match(namespaces=(Exact("a"),), not_namespaces=(Exact("b"),))),
        ("key: source.principal, values: ['*/sa/x']", Match(principals=(Suffix("/sa/x"),))),
        ("key: source.serviceAccount, values: [x]", Match(service_accounts=(ServiceAccountMatch("shop", "x"),))),
        ("key: destination.ip, values: [10.0.0.0/8]", Match(destination_ips=(ip_network("10.0.0.0/8"),))),
        ("key: destination.port, values: ['80'], notValues: ['81']", Match(destination_ports=(80,), not_destination_ports=(81,))),
    ],
)
def test_conditions(condition: str, match: Match) -> None:
    assert converted(f"{{rules: [{{when: [{{{condition}}}]}}]}}").rules == (((match,),),)


L7_RULES = [
    ("{to: [{operation: {methods: [GET], ports: ['80']}}]}", (((Match(destination_ports=(80,)),),)), "methods"),
    ("{to: [{operation: {notPaths: [/a]}}]}", (((Match(),),)), "notPaths"),
    ("{to: [{operation: {hosts: [a]}}, {operation: {ports: ['80']}}]}", (((Match(), Match(destination_ports=(80,))),)), "hosts"),
    ("{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}", (((Match(),),)), "remoteIpBlocks"),
    ("{from: [{source: {notRequestPrincipals: ['*'], namespaces: [a]}}]}", (((Match(namespaces=(Exact("a"),)),),)), "notRequestPrincipals"),
    ("{when: [{key: 'request.headers[x]', values: [a]}]}", ((),), "request.headers[x]"),
    (
        "{when: [{key: remote.ip, values: [10.0.0.1]}, {key: destination.port, values: ['80']}]}",
        (((Match(destination_ports=(80,)),),)),
        "remote.ip",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "kept", "field"), L7_RULES)
def test_what_layer_4_cannot_see(rule: str, kept: Any, field: str) -> None:
    other = "{from: [{source: {namespaces: [z]}}]}"
    allow = Config(authorization(f"{{rules: [{rule}, {other}]}}"))
    assert allow.policy("shop/p").rules == (((Match(namespaces=(Exact("z"),)),),),)
    deny = Config(authorization(f"{{action: DENY, rules: [{rule}]}}"))
    expected = kept if kept == ((),) else (kept,)
    assert deny.policy("shop/p").rules == expected
    for config in (allow, deny):
        (note,) = next(iter(config.mesh.derived.values())).notes
        assert field in note
        assert "not enforceable at L4" in note


@pytest.mark.parametrize("spec", ["{action: AUDIT, rules: [{}]}", "{targetRefs: [{kind: Service, name: x}], rules: [{}]}"])
def test_what_is_not_for_agents_is_not_sent_but_said(spec: str) -> None:
    config = Config(authorization(spec))
    assert config.policies == set()
    assert next(iter(config.mesh.derived.values())).notes


def test_workloads_name_the_policies_that_select_them() -> None:
    config = Config("""
        apiVersion: v1
        kind: Pod
        metadata: {name: p, namespace: shop, labels: {app: web, v: a}}
        status: {podIPs: [{ip: 10.0.0.1}]}
        """)
    for index, (name, namespace, selector) in enumerate(
        [
            ("b", "shop", "{app: web}"),
            ("a", "shop", "{app: web, v: a}"),
            ("no", "shop", "{app: other}"),
            ("r", ROOT, "{app: web}"),
            ("far", "else", "{app: web}"),
        ]
    ):
        policy = authorization(f"{{selector: {{matchLabels: {selector}}}}}", namespace).replace("name: p", f"name: {name}")
        config.write(f"{index}.yaml", policy)
    assert config.pod("shop", "p").authorization_policies == (f"{ROOT}/r", "shop/a", "shop/b")


texts = st.sampled_from(["a", "b*", "*c", "*"])
sources = st.fixed_dictionaries(
    {},
    optional={
        "principals": st.lists(texts, min_size=1, max_size=2),
        "notNamespaces": st.lists(texts, min_size=1, max_size=2),
        "remoteIpBlocks": st.just(["10.0.0.1"]),
        "requestPrincipals": st.just(["*"]),
    },
).filter(bool)
operations = st.fixed_dictionaries({}, optional={"ports": st.just(["80"]), "paths": st.just(["/a"]), "notHosts": st.just(["h"])}).filter(
    bool
)
whens = st.sampled_from([{"key": "source.namespace", "values": ["a"]}, {"key": "connection.sni", "values": ["a"]}])
rules = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(sources.map(lambda one: {"source": one}), min_size=1, max_size=2),
        "to": st.lists(operations.map(lambda one: {"operation": one}), min_size=1, max_size=2),
        "when": st.lists(whens, min_size=1, max_size=2),
    },
)


def _without_l7(value: Any) -> Any:
    """The rule as if its author had never written the parts of layer 7, with nothing left in place of what was all of it."""
    dropped = {"remoteIpBlocks", "requestPrincipals", "paths", "notHosts"}
    if isinstance(value, dict):
        return {key: _without_l7(one) for key, one in value.items() if key not in dropped}
    if isinstance(value, list):
        return [_without_l7(one) for one in value if not (isinstance(one, dict) and one.get("key") == "connection.sni")]
    return value


@settings(max_examples=150, deadline=None)
@given(st.lists(rules, min_size=1, max_size=3))
def test_dropping_what_is_not_seen_never_widens(rules: list[dict[str, Any]]) -> None:
    def policy(action: str) -> Policy:
        raw = {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"action": action, "rules": rules}}
        result = convert(msgspec.convert(raw, AuthorizationPolicy), ROOT).policy
        assert result is not None
        return result

    plain = [rule for rule in rules if _without_l7(rule) == rule]
    # An ALLOW keeps exactly the rules that are fully understood, so it allows no more than was meant.
    assert len(policy("ALLOW").rules) == len(plain)
    # A DENY keeps every rule, each with no condition more than was written, so it denies no less.
    denying = policy("DENY").rules
    assert len(denying) == len(rules)
    for written, enforced in zip(rules, denying, strict=True):
        fewer = [condition for condition in written.get("when", []) if condition["key"] != "connection.sni"]
        assert len(enforced) == ("from" in written) + ("to" in written) + len(fewer)
        assert all(clause for clause in enforced)
        matches = {match for clause in enforced for match in clause}
        visible = sum("principals" in one["source"] for one in written.get("from", []))
        assert sum(bool(match.principals) for clause in enforced for match in clause) == visible
        assert all(not match.destination_ports or match.destination_ports == (80,) for match in matches)
