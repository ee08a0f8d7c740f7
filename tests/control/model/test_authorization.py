"""How AuthorizationPolicies become what node agents enforce, and that nothing on the way widens them."""

import json
from collections.abc import Callable
from ipaddress import ip_address, ip_network
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
    ("{to: [{operation: {notPaths: [/a]}}]}", (), "notPaths"),
    ("{to: [{operation: {hosts: [a]}}, {operation: {ports: ['80']}}]}", (), "hosts"),
    ("{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}", (), "remoteIpBlocks"),
    ("{from: [{source: {notRequestPrincipals: ['*'], namespaces: [a]}}]}", (((Match(namespaces=(Exact("a"),)),),)), "notRequestPrincipals"),
    ("{when: [{key: 'request.headers[x]', values: [a]}]}", (), "request.headers[x]"),
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
    # Never an empty match in a clause: ztunnel reads one as nothing, and would let the connection in.
    assert deny.policy("shop/p").rules == (kept,)
    for config in (allow, deny):
        (note,) = next(iter(config.mesh.derived.values())).notes
        assert field in note
        assert "not enforceable at L4" in note


def test_what_is_not_for_agents_is_not_sent_but_said() -> None:
    config = Config(authorization("{action: AUDIT, rules: [{}]}"))
    assert config.policies == set()
    assert next(iter(config.mesh.derived.values())).notes


def test_what_is_for_waypoints_is_not_sent() -> None:
    assert Config(authorization("{targetRefs: [{kind: Service, name: x}], rules: [{}]}")).policies == set()


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


class Connection(msgspec.Struct, frozen=True):
    """What layer 4 knows of a connection; `account` empty: the peer has no identity."""

    namespace: str
    account: str
    source: str
    port: int

    @property
    def principal(self) -> str:
        return f"cluster.local/ns/{self.namespace}/sa/{self.account}" if self.account else ""


def glob(pattern: str, value: str) -> bool:
    """Istio's string matching, on what is written."""
    if pattern == "*":
        return value != ""
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def written_field(name: str, wanted: list[str], connection: Connection, unseen: bool) -> bool:
    """Whether one field of a source, operation or condition holds; `unseen` is how those of layer 7 come out."""
    negative = name.startswith("not")
    name = name.removeprefix("not")
    match name[:1].lower() + name[1:]:
        case "principals" | "source.principal":
            found = any(glob(text, connection.principal) for text in wanted)
        case "namespaces" | "source.namespace":
            found = any(glob(text, connection.namespace if connection.account else "") for text in wanted)
        case "ipBlocks" | "source.ip":
            found = any(ip_address(connection.source) in ip_network(text) for text in wanted)
        case "ports" | "destination.port":
            found = str(connection.port) in wanted
        case _:
            return unseen
    return found != negative


def written(rule: dict[str, Any], connection: Connection, unseen: bool) -> bool:
    """Whether a rule matches, read as Istio documents it."""

    def holds(fields: dict[str, list[str]]) -> bool:
        return all(written_field(name, wanted, connection, unseen) for name, wanted in fields.items())

    return (
        ("from" not in rule or any(holds(item["source"]) for item in rule["from"]))
        and ("to" not in rule or any(holds(item["operation"]) for item in rule["to"]))
        and all(
            ("values" not in item or written_field(item["key"], item["values"], connection, unseen))
            and ("notValues" not in item or written_field(f"not{item['key']}", item["notValues"], connection, unseen))
            for item in rule.get("when", [])
        )
    )


def enforced(policy: Policy, connection: Connection) -> bool:
    """Whether a policy matches, by the evaluation that agents do; an empty match is nothing to Istio's."""

    def text(matches: Any, value: str) -> bool:
        forms: dict[type, Callable[[Any], bool]] = {
            Exact: lambda match: value == match.value,
            Prefix: lambda match: value.startswith(match.value),
            Suffix: lambda match: value.endswith(match.value),
            Present: lambda _: value != "",
        }
        return any(forms[type(match)](match) for match in matches)

    def holds(match: Match) -> bool:
        namespace, source = connection.namespace if connection.account else "", ip_address(connection.source)
        pairs = [
            (match.principals, match.not_principals, lambda wanted: text(wanted, connection.principal)),
            (match.namespaces, match.not_namespaces, lambda wanted: text(wanted, namespace)),
            (match.source_ips, match.not_source_ips, lambda wanted: any(source in block for block in wanted)),
            (match.destination_ports, match.not_destination_ports, lambda wanted: connection.port in wanted),
        ]
        return match != Match() and all(
            (not wanted or found(wanted)) and not (unwanted and found(unwanted)) for wanted, unwanted, found in pairs
        )

    return any(all(not clause or any(holds(match) for match in clause) for clause in rule) for rule in policy.rules)


TEXTS = st.lists(st.sampled_from(["a", "b", "a*", "*b", "*", "cluster.local/ns/a/sa/x", "cluster.local/ns/a/*"]), min_size=1, max_size=2)
BLOCKS = st.lists(st.sampled_from(["10.0.0.0/8", "10.0.0.1", "::/0"]), min_size=1, max_size=2)
PORTS = st.lists(st.sampled_from(["80", "81"]), min_size=1, max_size=2)
SOURCES = st.fixed_dictionaries(
    {},
    optional={
        "principals": TEXTS,
        "notPrincipals": TEXTS,
        "namespaces": TEXTS,
        "notNamespaces": TEXTS,
        "ipBlocks": BLOCKS,
        "notIpBlocks": BLOCKS,
        "remoteIpBlocks": BLOCKS,
        "notRequestPrincipals": st.just(["*"]),
    },
).filter(bool)
OPERATIONS = st.fixed_dictionaries(
    {}, optional={"ports": PORTS, "notPorts": PORTS, "paths": st.just(["/a"]), "notHosts": st.just(["h"])}
).filter(bool)


def conditions(key: str, texts: st.SearchStrategy[list[str]]) -> st.SearchStrategy[dict[str, Any]]:
    """A condition with values, notValues or both."""
    optional = {"values": texts, "notValues": texts}
    return st.fixed_dictionaries({"key": st.just(key)}, optional=optional).filter(lambda item: len(item) > 1)


CONDITIONS = st.one_of(
    conditions("source.principal", TEXTS),
    conditions("source.namespace", TEXTS),
    conditions("source.ip", BLOCKS),
    conditions("destination.port", PORTS),
    conditions("connection.sni", TEXTS),
    conditions("request.headers[x]", TEXTS),
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(SOURCES.map(lambda one: {"source": one}), min_size=1, max_size=2),
        "to": st.lists(OPERATIONS.map(lambda one: {"operation": one}), min_size=1, max_size=2),
        "when": st.lists(CONDITIONS, min_size=1, max_size=2),
    },
)
CONNECTIONS = [
    Connection(namespace, account, source, port)
    for namespace in ("a", "b", "ab")
    for account in ("", "x", "b")
    for source in ("10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1")
    for port in (80, 82)
]


def policy_of(action: str, rules: list[dict[str, Any]]) -> Policy:
    raw = {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"action": action, "rules": rules}}
    result = convert(msgspec.convert(raw, AuthorizationPolicy), ROOT).policy
    assert result is not None
    return result


@settings(max_examples=150, deadline=None)
@given(st.lists(RULES, min_size=1, max_size=3))
def test_what_is_enforced_is_never_wider_than_what_is_written(rules: list[dict[str, Any]]) -> None:
    allow, deny = policy_of("ALLOW", rules), policy_of("DENY", rules)
    for connection in CONNECTIONS:
        # The fields of layer 7 only ever add conditions, so all false and all true are the extremes of what they can be.
        least, most = (any(written(rule, connection, unseen) for rule in rules) for unseen in (False, True))
        assert not enforced(allow, connection) or least
        assert enforced(deny, connection) or not most
        if _layer_4_only(rules):
            assert enforced(allow, connection) == enforced(deny, connection) == least


def _layer_4_only(rules: list[dict[str, Any]]) -> bool:
    return not any(
        field in json.dumps(rules)
        for field in ("remoteIpBlocks", "notRequestPrincipals", "paths", "notHosts", "request.headers", "connection.sni")
    )
