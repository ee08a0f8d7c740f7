"""control/validation/policy_checks.py: what a policy says, and what it only seems to say, which is an error and opens nothing."""

import msgspec
import pytest

from control.kinds import AuthorizationPolicy, PeerAuthentication
from control.kinds.security import MTLSMode, PolicyAction
from tests.control.validation.policies import authorization, peer, source
from tests.control.validation.reading import ROOT, errors, read, warnings


@pytest.mark.parametrize(
    "spec",
    [
        "{rule: [{}]}",
        "{rules: {}}",
        "{rules: [null]}",
        "{rules: }",
        "{rules: [{from: }]}",
        "{rules: [{from: [], to: [{operation: {ports: ['80']}}]}]}",
        "{rules: [{from: [{}]}]}",
        "{rules: [{from: [{source: }]}]}",
        "{rules: [{from: [{source: {}}]}]}",
        "{rules: [{from: [{source: {principals: []}}]}]}",
        "{rules: [{to: [{operation: {}}]}]}",
        "{rules: [{to: [{operation: {port: ['80']}}]}]}",
        "{rules: [{to: [{operation: {ports: [80]}}]}]}",
        "{rules: [{to: [{operation: {ports: ['http']}}]}]}",
        "{rules: [{when: [{key: source.ip}]}]}",
        "{rules: [{when: [{key: source.ip, values: []}]}]}",
        "{rules: [{when: [{key: source.ips, values: ['10.0.0.1']}]}]}",
        "{rules: [{when: [{values: ['10.0.0.1']}]}]}",
        "{rules: [{when: [{key: destination.port, values: ['0']}]}]}",
        "{rules: [{whenever: []}]}",
        "{action: Deny, rules: [{}]}",
        "{action: DENY}",
        "{selector: {}}",
        "{selector: {matchLabels: {}}}",
        "{selector: {matchLabel: {a: b}}}",
        "{selector: {matchLabels: {a: '*'}}}",
        "{selector: {matchExpressions: []}}",
        "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: x}]}",
        source("principals: ['']"),
        source("principals: ['spiffe://a/ns/b/sa/c']"),
        source("principals: a"),
        source("ipBlocks: [10.0.0.0/33]"),
        source("ipBlocks: ['10.0.0.0/255.0.0.0']"),
        source("notIpBlocks: [x]"),
        source("serviceAccounts: ['*']"),
        source("serviceAccounts: [a], namespaces: [b]"),
        source("namespaces: [null]"),
    ],
)
@pytest.mark.parametrize("action", ["", "action: DENY, "])
def test_a_policy_that_says_something_else_than_it_seems_is_an_error(spec: str, action: str) -> None:
    if "action" not in spec:
        spec = spec.replace("{", "{" + action, 1)
    (document,) = read(authorization(spec))
    assert document.object is None
    assert errors(authorization(spec))
    assert isinstance(document.closed, AuthorizationPolicy)
    # Closed: an ALLOW that allows nothing, or a DENY of everything.
    if document.closed.spec.action is PolicyAction.ALLOW:
        assert not document.closed.spec.rules
    else:
        assert document.closed.spec.rules == (msgspec.convert({}, type(document.closed.spec.rules[0])),)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (authorization("{}", "{name: p, namespace: shop, annotations: {istio.io/dry-run: maybe}}"), "neither true nor false"),
        (authorization("{}") + "extra: 1\n", "unknown field 'extra'"),
    ],
)
def test_what_is_wrong_beside_the_rules(text: str, remark: str) -> None:
    assert [what for _, what in errors(text) if remark in what]


@pytest.mark.parametrize(
    "spec",
    [
        "{}",
        "",
        "{rules: [{}]}",
        "{action: DENY, rules: [{}]}",
        "{rules: [{from: [{source: {principals: ['*'], notNamespaces: [x]}}], to: [{operation: {methods: [GET], ports: ['80']}}]}]}",
        "{rules: [{when: [{key: 'request.headers[x]', values: [y]}, {key: source.principal, notValues: [z]}]}]}",
        "{targetRefs: [{kind: Service, name: x, group: ''}], rules: [{}]}",
        "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
    ],
)
def test_what_istio_accepts(spec: str) -> None:
    text = authorization(spec, "{name: p, namespace: shop, resourceVersion: '1', managedFields: [{a: b}]}") + "status: {x: y}\n"
    assert errors(text) == []


def test_a_wildcard_inside_is_taken_literally_and_said() -> None:
    assert warnings(authorization(source("principals: ['a*b', 'a*']"))) == ["'a*b': a * inside is taken literally"]


@pytest.mark.parametrize(
    ("spec", "namespace"),
    [
        ("{mtls: {mode: Strict}}", "shop"),
        ("{mtls: STRICT}", "shop"),
        ("{mtls: }", "shop"),
        ("{mtsl: {mode: STRICT}}", "shop"),
        ("{selector: {}}", "shop"),
        ("{portLevelMtls: {80: {mode: STRICT}}}", "shop"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}", "shop"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}", "shop"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: STRICT}}", "shop"),
        ("{selector: {matchLabels: {a: b}}}", ROOT),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT, '0': x}}}", "shop"),
        ("{'`$.a`': 1}", "shop"),
        ("{'x - at `$.mtls[3]': 1}", "shop"),
    ],
)
def test_a_peer_authentication_that_is_not_understood_is_strict(spec: str, namespace: str) -> None:
    (document,) = read(peer(spec, namespace))
    assert document.object is None
    assert isinstance(document.closed, PeerAuthentication)
    assert document.closed.spec.mtls.mode is MTLSMode.STRICT


def test_disable_of_a_port_is_permissive_and_said() -> None:
    (found,) = warnings(peer("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: DISABLE}}}"))
    assert "treated as PERMISSIVE" in found


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("{kind: Pod, name: x}", "can't be for a 'Pod'"),
        ("{kind: Service, name: x, group: apps}", "there is no Service in 'apps'"),
        ("{kind: Service, name: x, namespace: other}", "objects of its own namespace"),
        ("{kind: GatewayClass, name: x}", "belongs in the root namespace"),
        ("{kind: Service, name: 'x y'}", "x y"),
    ],
)
def test_what_a_policy_can_not_be_for(target: str, what: str) -> None:
    (document,) = read(authorization(f"{{targetRefs: [{target}], rules: [{{}}]}}"))
    assert document.object is None
    assert what in str(document.findings[0])
