"""control/envoy/rbac: what a real Envoy lets in is what the policy says, of requests and of connections."""

import http.client
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from control.envoy.parts import PEER, PEER_ADDRESS
from control.envoy.rbac.filters import http_judges, network_judges
from control.envoy.rbac.parts import Callers, Identity
from control.kinds import AuthorizationPolicy
from tests.control.envoy.rbac import reference
from tests.control.envoy.rbac.reference import Request
from tests.control.envoy.real_envoy import EXTENSIONS, as_json, http_listener, running

TOKEN = """
function envoy_on_request(handle)
  local issuer = handle:headers():get("x-test-iss")
  if issuer ~= nil then
    local groups = {}
    for group in string.gmatch(handle:headers():get("x-test-groups") or "", "[^;]+") do table.insert(groups, group) end
    handle:streamInfo():dynamicMetadata():set("envoy.filters.http.jwt_authn", "payload",
      {iss = issuer, sub = handle:headers():get("x-test-sub"), groups = groups, aud = "me", realm = {role = "cook"}})
  end
end
"""


def policy(spec: dict[str, Any], name: str = "p") -> AuthorizationPolicy:
    return msgspec.convert({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}, AuthorizationPolicy)


CASES: dict[str, tuple[Sequence[dict[str, Any]], Sequence[tuple[Request, bool]]]] = {
    "nothing is allowed by a policy without rules": ([{}], [(Request(), False)]),
    "no policy": ([], [(Request(), True)]),
    "methods": (
        [{"rules": [{"to": [{"operation": {"methods": ["GET", "P*"]}}]}]}],
        [(Request(), True), (Request(method="POST"), True), (Request(method="DELETE"), False)],
    ),
    "paths": (
        [{"rules": [{"to": [{"operation": {"paths": ["/a", "/b/*", "*.html", "/t/{*}/x", "/u/{**}"]}}]}]}],
        [
            (Request(path="/a"), True),
            (Request(path="/a?q=/b/"), True),
            (Request(path="/a/"), False),
            (Request(path="/A"), False),
            (Request(path="/b/"), True),
            (Request(path="/b/c"), True),
            (Request(path="/c.html"), True),
            (Request(path="/c.html?d"), True),
            (Request(path="/c.htmlx"), False),
            (Request(path="/d?/b/"), False),
            (Request(path="/t/1/x"), True),
            (Request(path="/t/1/2/x"), False),
            (Request(path="/u/1/2/3"), True),
        ],
    ),
    "a denied path": (
        [{"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin*"]}}]}]}],
        [(Request(path="/admin"), False), (Request(path="/admin?x"), False), (Request(path="/x"), True)],
    ),
    "all but some paths": (
        [{"rules": [{"to": [{"operation": {"notPaths": ["/private*"]}}]}]}],
        [(Request(path="/private/1"), False), (Request(path="/public"), True)],
    ),
    "hosts": (
        [{"rules": [{"to": [{"operation": {"hosts": ["shop.test", "*.Wild.test"]}}]}]}],
        [
            (Request(host="shop.test"), True),
            (Request(host="SHOP.test:8080"), True),
            (Request(host="shopXtest"), False),
            (Request(host="a.wild.TEST"), True),
            (Request(host="shop.test.evil"), False),
        ],
    ),
    "principals": (
        [{"rules": [{"from": [{"source": {"principals": ["cluster.local/ns/a/sa/b", "*/sa/cook", "x.y/*"]}}]}]}],
        [
            (Request(peer="spiffe://cluster.local/ns/a/sa/b"), True),
            (Request(peer="spiffe://cluster.local/ns/a/sa/bb"), False),
            (Request(peer="spiffe://other/ns/c/sa/cook"), True),
            (Request(peer="spiffe://x.y/ns/c/sa/d"), True),
            (Request(peer="spiffe://xzy/ns/c/sa/d"), False),
            (Request(), False),
        ],
    ),
    "anybody with an identity": (
        [{"rules": [{"from": [{"source": {"principals": ["*"]}}]}]}],
        [(Request(peer="spiffe://cluster.local/ns/a/sa/b"), True), (Request(), False)],
    ),
    "namespaces": (
        [{"rules": [{"from": [{"source": {"namespaces": ["a", "team-*"]}}]}]}],
        [
            (Request(peer="spiffe://cluster.local/ns/a/sa/b"), True),
            (Request(peer="spiffe://cluster.local/ns/team-x/sa/b"), True),
            (Request(peer="spiffe://cluster.local/ns/b/sa/a"), False),
            (Request(peer="spiffe://cluster.local/ns/c/sa/ns"), False),
        ],
    ),
    "service accounts": (
        [{"rules": [{"from": [{"source": {"serviceAccounts": ["cook", "a/b"]}}]}]}],
        [
            (Request(peer="spiffe://cluster.local/ns/shop/sa/cook"), True),
            (Request(peer="spiffe://cluster.local/ns/other/sa/cook"), False),
            (Request(peer="spiffe://cluster.local/ns/a/sa/b"), True),
        ],
    ),
    "strangers are denied": (
        [{"action": "DENY", "rules": [{"from": [{"source": {"notPrincipals": ["*"]}}]}]}],
        [(Request(), False), (Request(peer="spiffe://cluster.local/ns/a/sa/b"), True)],
    ),
    "addresses": (
        [{"rules": [{"from": [{"source": {"ipBlocks": ["127.0.0.0/8"], "notIpBlocks": ["127.0.0.2"]}}]}]}],
        [(Request(), True)],
    ),
    "another address": ([{"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}]}], [(Request(), False)]),
    "tokens": (
        [{"rules": [{"from": [{"source": {"requestPrincipals": ["https://me/x/cook", "you/*"]}}]}]}],
        [
            (Request(), False),
            (Request(issuer="https://me/x", subject="cook"), True),
            (Request(issuer="https://me", subject="x/cook"), True),
            (Request(issuer="https://me/x", subject="cooks"), False),
            (Request(issuer="you", subject="any"), True),
            (Request(issuer="you", subject=""), False),
        ],
    ),
    "any token": (
        [{"action": "DENY", "rules": [{"from": [{"source": {"notRequestPrincipals": ["*"]}}]}]}],
        [(Request(), False), (Request(issuer="a", subject="b"), True)],
    ),
    "claims": (
        [{"rules": [{"when": [{"key": "request.auth.claims[groups]", "values": ["chef"]}]}]}],
        [
            (Request(issuer="a", subject="b", groups=("waiter", "chef")), True),
            (Request(issuer="a", subject="b", groups=("waiter",)), False),
        ],
    ),
    "nested claims and audiences": (
        [
            {
                "rules": [
                    {
                        "when": [
                            {"key": "request.auth.claims[realm][role]", "values": ["c*"]},
                            {"key": "request.auth.audiences", "values": ["me"]},
                        ]
                    }
                ]
            }
        ],
        [(Request(issuer="a", subject="b"), True), (Request(), False)],
    ),
    "headers": (
        [{"rules": [{"when": [{"key": "request.headers[X-Kind]", "values": ["a*"], "notValues": ["ab"]}]}]}],
        [
            (Request(headers=(("x-kind", "aa"),)), True),
            (Request(headers=(("x-kind", "ab"),)), False),
            (Request(headers=(("x-kind", "b"),)), False),
            (Request(), False),
        ],
    ),
    "a denied header among several": (
        [{"action": "DENY", "rules": [{"when": [{"key": "request.headers[x-kind]", "values": ["bad"]}]}]}],
        [
            (Request(headers=(("x-kind", "bad"),)), False),
            (Request(headers=(("x-kind", "good"), ("x-kind", "bad"))), False),
            (Request(headers=(("x-kind", "bad, good"),)), False),
            (Request(headers=(("x-kind", "badly"),)), True),
        ],
    ),
    "denials come first": (
        [{"rules": [{}]}, {"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["DELETE"]}}]}]}],
        [(Request(method="DELETE"), False), (Request(), True)],
    ),
    "nobody to ask": (
        [{"rules": [{}]}, {"action": "CUSTOM", "provider": {"name": "asked"}, "rules": [{"to": [{"operation": {"paths": ["/ask*"]}}]}]}],
        [(Request(path="/ask"), False), (Request(path="/other"), True)],
    ),
    "presence": (
        [{"rules": [{"to": [{"operation": {"paths": ["*"], "methods": ["*"], "hosts": ["*"]}}]}]}],
        [(Request(), True), (Request(method="PUT", path="/a/b?c"), True)],
    ),
    "denied ends": (
        [{"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["*.key"]}}, {"operation": {"hosts": ["*.inner.test"]}}]}]}],
        [
            (Request(path="/a.key"), False),
            (Request(path="/a.key?x"), False),
            (Request(path="/a.keys"), True),
            (Request(host="a.inner.test"), False),
            (Request(host="A.INNER.test:80"), False),
            (Request(host="inner.test"), True),
        ],
    ),
    "denied beginnings": (
        [{"action": "DENY", "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/a/*"], "notNamespaces": ["b*"]}}]}]}],
        [
            (Request(peer="spiffe://cluster.local/ns/a/sa/b"), False),
            (Request(peer="spiffe://cluster.local/ns/ab/sa/b"), True),
            (Request(peer="spiffe://other/ns/a/sa/b"), True),
            (Request(), True),
        ],
    ),
    "a name is taken literally": (
        [{"rules": [{"from": [{"source": {"principals": ["cluster.local/ns/a.b/sa/[c]"]}}]}]}],
        [(Request(peer="spiffe://cluster.local/ns/a.b/sa/[c]"), True), (Request(peer="spiffe://cluster.local/ns/axb/sa/c"), False)],
    ),
}


RELAY = "spiffe://cluster.local/ns/edge/sa/gate"
SAID = (("x-forwarded-for", "10.1.2.3"),)
BLOCK = "10.0.0.0/8"
CALLERS = Callers(Identity.TUNNEL, (RELAY,))
OF_CONNECTIONS: dict[str, tuple[Sequence[dict[str, Any]], Sequence[tuple[Request, bool]]]] = {
    "a port": ([{"rules": [{"to": [{"operation": {"ports": ["1"]}}]}]}], [(Request(), False)]),
    "all ports but one": ([{"rules": [{"to": [{"operation": {"notPorts": ["1"]}}]}]}], [(Request(), True)]),
    "other ports are denied": ([{"action": "DENY", "rules": [{"to": [{"operation": {"notPorts": ["1"]}}]}]}], [(Request(), False)]),
    "the address for which a request is made": (
        [{"rules": [{"from": [{"source": {"remoteIpBlocks": [BLOCK]}}]}]}],
        [
            (Request(headers=SAID), False),
            (Request(headers=SAID, peer="spiffe://cluster.local/ns/a/sa/b"), False),
            (Request(headers=SAID, peer=RELAY), True),
            (Request(peer=RELAY), False),
        ],
    ),
    "an address that is kept out": (
        [{"action": "DENY", "rules": [{"when": [{"key": "remote.ip", "values": ["127.0.0.1", BLOCK]}]}]}],
        [
            (Request(), False),
            (Request(headers=(("x-forwarded-for", "192.0.2.1"),)), False),
            (Request(headers=(("x-forwarded-for", "192.0.2.1"),), peer=RELAY), True),
            (Request(headers=SAID, peer=RELAY), False),
        ],
    ),
    "conditions on both ends": (
        [
            {
                "rules": [
                    {
                        "when": [
                            {"key": "source.ip", "values": ["127.0.0.0/8"]},
                            {"key": "destination.ip", "values": ["127.0.0.1"]},
                            {"key": "destination.port", "notValues": ["1"]},
                            {"key": "source.principal", "values": ["cluster.local/ns/a/*"]},
                            {"key": "connection.sni", "notValues": ["x.test"]},
                        ]
                    }
                ]
            }
        ],
        [(Request(peer="spiffe://cluster.local/ns/a/sa/b"), True), (Request(peer="spiffe://cluster.local/ns/b/sa/b"), False)],
    ),
    "whose ends are elsewhere": (
        [
            {"rules": [{"when": [{"key": "destination.ip", "values": [BLOCK]}]}]},
            {"rules": [{"when": [{"key": "source.ip", "values": [BLOCK]}]}]},
        ],
        [(Request(), False)],
    ),
    "what is only noted lets in": ([{"action": "AUDIT", "rules": [{"to": [{"operation": {"paths": ["/noted"]}}]}]}], [(Request(), True)]),
    "what is only noted lets nobody in": ([{"action": "AUDIT", "rules": [{}]}, {}], [(Request(), False)]),
}
"""What the reference knows nothing of."""


def http_filters(policies: Sequence[AuthorizationPolicy]) -> list[dict[str, Any]]:
    state = {
        "object_key": PEER,
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": "%REQ(X-TEST-PEER)%"}, "omit_empty_values": True},
        "skip_if_empty": True,
    }
    code = {"inline_string": TOKEN}
    ahead = [
        {"name": "peer", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.set_filter_state.v3.Config", "on_request_headers": [state]}},
        {
            "name": "token",
            "typed_config": {"@type": f"{EXTENSIONS}.filters.http.lua.v3.Lua", "default_source_code": code},
        },
    ]
    judges = [as_json(one) for one in http_judges(policies, CALLERS).filters]
    return [*ahead, *judges]


OF_TCP: dict[str, tuple[dict[str, Any], bool]] = {
    "connections from elsewhere": ({"rules": [{"from": [{"source": {"ipBlocks": [BLOCK]}}]}]}, False),
    "connections of a namespace": ({"rules": [{"from": [{"source": {"namespaces": ["tcp"]}}]}]}, True),
    "connections of others": ({"action": "DENY", "rules": [{"from": [{"source": {"notNamespaces": ["tcp"]}}]}]}, True),
    "connections with a token": ({"rules": [{"from": [{"source": {"requestPrincipals": ["*"], "namespaces": ["tcp"]}}]}]}, False),
    "connections without a token": (
        {"action": "DENY", "rules": [{"from": [{"source": {"notRequestPrincipals": ["*"], "namespaces": ["tcp"]}}]}]},
        False,
    ),
    "connections that ask for a path": ({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/x"]}}]}]}, False),
    "connections that may ask for a path": ({"rules": [{"to": [{"operation": {"paths": ["/"]}}]}]}, False),
}
"""A policy, and whether it lets a connection of the namespace `tcp` in: what none shows lets nobody in, and denies."""


def network_filters(spec: dict[str, Any]) -> list[dict[str, Any]]:
    text = {"text_format_source": {"inline_string": "spiffe://cluster.local/ns/tcp/sa/a"}}
    state = {"object_key": PEER, "factory_key": "envoy.string", "format_string": text}
    peer = {
        "name": "peer",
        "typed_config": {"@type": f"{EXTENSIONS}.filters.network.set_filter_state.v3.Config", "on_new_connection": [state]},
    }
    return [peer, *(as_json(one) for one in network_judges([policy(spec)], CALLERS).filters)]


def listener(name: str, filters: list[dict[str, Any]], ahead: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    made = http_listener(name, filters, [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}])
    # As the tunnel leaves it there.
    text = {"text_format_source": {"inline_string": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"}}
    kind = f"{EXTENSIONS}.filters.network.set_filter_state.v3.Config"
    address = {"@type": kind, "on_new_connection": [{"object_key": PEER_ADDRESS, "format_string": text}]}
    made["filter_chains"][0]["filters"][:0] = [{"name": "address", "typed_config": address}, *ahead]
    return made


def let_in(port: int, request: Request) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.wire_headers():
            connection.putheader(name, value)
        connection.endheaders()
        status = connection.getresponse().status
    finally:
        connection.close()
    assert status in {200, 403}, status
    return status == 200


GENERATED = 60


@pytest.fixture(scope="module")
def generated() -> list[list[AuthorizationPolicy]]:
    rng = Random(20)  # noqa: S311 - the same policies each time
    return [reference.some_policies(rng) for _ in range(GENERATED)]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, generated: list[list[AuthorizationPolicy]]) -> Iterator[dict[str, int]]:
    listeners = [
        listener(name, http_filters([policy(spec, f"p{index}") for index, spec in enumerate(specs)]))
        for name, (specs, _) in {**CASES, **OF_CONNECTIONS}.items()
    ]
    listeners += [listener(f"generated {index}", http_filters(policies)) for index, policies in enumerate(generated)]
    listeners += [listener(name, http_filters([]), network_filters(spec)) for name, (spec, _) in OF_TCP.items()]
    directory: Path = tmp_path_factory.mktemp("envoy")
    with running(directory, listeners) as envoy:
        yield envoy.ports


@pytest.mark.parametrize("name", CASES)
def test_requests(ports: dict[str, int], name: str) -> None:
    specs, requests = CASES[name]
    policies = [policy(spec, f"p{index}") for index, spec in enumerate(specs)]
    for request, expected in requests:
        assert let_in(ports[name], request) is expected, request
        assert reference.allowed(policies, request) is expected, f"the reference says otherwise of {request}"


def test_generated_policies_are_judged_as_they_are_written(ports: dict[str, int], generated: list[list[AuthorizationPolicy]]) -> None:
    rng = Random(21)  # noqa: S311 - the same requests each time
    outcomes = []
    for index, policies in enumerate(generated):
        for _ in range(12):
            request = reference.some_request(rng)
            outcomes.append(let_in(ports[f"generated {index}"], request))
            assert outcomes[-1] is reference.allowed(policies, request), (policies, request)
    assert 0.2 < sum(outcomes) / len(outcomes) < 0.8, "what is generated should be let in as often as not"


@pytest.mark.parametrize("name", OF_CONNECTIONS)
def test_requests_by_where_they_come_from(ports: dict[str, int], name: str) -> None:
    for request, expected in OF_CONNECTIONS[name][1]:
        assert let_in(ports[name], request) is expected, request


@pytest.mark.parametrize("name", OF_TCP)
def test_connections_that_carry_no_http(ports: dict[str, int], name: str) -> None:
    """Who is not let in is closed."""
    if OF_TCP[name][1]:
        assert let_in(ports[name], Request())
        return
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        let_in(ports[name], Request())


def test_what_connections_can_not_be_asked_never_widens() -> None:
    by_request = {"rules": [{"from": [{"source": {"requestPrincipals": ["*"], "namespaces": ["a"]}}]}]}
    allow = network_judges([policy(by_request)], CALLERS)
    assert [as_json(one)["typed_config"]["rules"] for one in allow.filters] == [{}], "ALLOW, and no rule that could match"
    assert allow.unanswerable == (("shop/p", ("requestPrincipals",)),)
    deny = network_judges([policy({**by_request, "action": "DENY"})], CALLERS)
    rules = as_json(deny.filters[0])["typed_config"]["rules"]
    (denied,) = rules["policies"].values()
    assert denied["permissions"] == [{"any": True}]
    assert "filter_state" in denied["principals"][0], "it denies the namespace, with a token or without"


def test_a_policy_on_trial_only_shadows() -> None:
    trial = msgspec.structs.replace(
        policy({}), metadata=msgspec.structs.replace(policy({}).metadata, annotations={"istio.io/dry-run": "true"})
    )
    (judge,) = http_judges([trial], CALLERS).filters
    config = as_json(judge)["typed_config"]
    assert "rules" not in config
    assert config["shadow_rules_stat_prefix"] == "istio_dry_run_allow_"
