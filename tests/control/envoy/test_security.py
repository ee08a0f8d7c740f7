"""control/envoy/security.py and guarding.py: policies that name a service, its waypoint or its class are in the filters."""

from pathlib import Path

from control.envoy.built import CLUSTER, LISTENER, ROUTES
from control.envoy.rbac.filters import HTTP_RBAC, NETWORK_RBAC
from control.envoy.rbac.matchers import JWT_FILTER
from control.model.settings import MeshSettings
from tests.control.envoy.real_envoy import as_json
from tests.control.envoy.test_waypoint import GATEWAY, Served, pod, service
from tests.control.envoy.validation import validate

KEYS = (
    '{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",'
    '"y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}'
)


def policy(name: str, target: str, namespace: str = "shop", body: str = "rules: [{to: [{operation: {methods: [GET]}}]}]") -> str:
    return f"""
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {{name: {name}, namespace: {namespace}}}
    spec: {{{target}{body}}}
"""


def to(kind: str, name: str) -> str:
    return f"targetRefs: [{{kind: {kind}, name: {name}, group: ''}}], "


def tokens(name: str, target: str, keys: str) -> str:
    return f"""
    kind: RequestAuthentication
    apiVersion: security.istio.io/v1
    metadata: {{name: {name}, namespace: shop}}
    spec: {{{target}jwtRules: [{{issuer: me, {keys}}}]}}
"""


def judges(served: Served) -> dict[str, list[str]]:
    """Of each chain: the names of the rules and filters of security, in their order; those that come with its routes in place of the
    filters that wait for them."""
    main = next(one for one in served.of(LISTENER).values() if one.name == "main_internal")
    routes = served.of(ROUTES)
    found = {}
    for chain in as_json(main)["filter_chains"]:
        name = chain["name"]
        found[name] = []
        said = as_json(routes[name])["typed_per_filter_config"] if name in routes else {}
        for one in chain["filters"]:
            for inner in [one, *one["typed_config"].get("http_filters", [])]:
                config = inner["typed_config"]
                if waits := inner["name"] in said:
                    assert config.keys() == {"@type"}
                    config = said.pop(inner["name"]).get("rbac")
                if config and (waits or inner["name"] in {HTTP_RBAC, NETWORK_RBAC}):
                    rules = config.get("rules")
                    found[name] += ["asks"] if rules is None else sorted(rules.get("policies", {"nothing": None}))
                elif inner["name"] == JWT_FILTER:
                    found[name] += config["providers"]
        assert not said, "what no filter reads"
    return found


def rule(name: str, namespace: str = "shop") -> str:
    return f"ns[{namespace}]-policy[{name}]-rule[0]"


def test_policies_hold_where_they_name_something() -> None:
    served = Served()
    served.write(
        "a.yaml",
        service("cart", "10.96.0.1"),
        service("till", "10.96.0.2", "[{name: tcp-a, port: 80, targetPort: 8080}]"),
        pod("cart-1", "cart", "10.0.0.1"),
    )
    served.write(
        "b.yaml",
        policy("of-cart", to("Service", "cart")),
        policy("of-waypoint", to("Gateway", "waypoint")),
        policy("of-class", to("GatewayClass", "istio-waypoint"), "istio-system"),
        policy("of-no-root", to("GatewayClass", "istio-waypoint")),
        policy("of-other", to("Service", "other")),
        policy("of-other-namespace", to("Service", "cart"), "elsewhere"),
        policy("of-workloads", "selector: {matchLabels: {app: cart}}, "),
        tokens("tokens", to("Service", "cart"), f"jwks: '{KEYS}'"),
    )
    found = judges(served)
    http = next(names for name, names in found.items() if "cart" in name)
    tcp = next(names for name, names in found.items() if "till" in name)
    assert http == ["shop/tokens/0", rule("of-class", "istio-system"), rule("of-cart"), rule("of-waypoint")]
    assert tcp == ["nothing"], "methods are nothing that a connection shows: ALLOW lets nobody in"


def test_a_policy_that_comes_and_goes() -> None:
    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"))
    assert all(not names for names in judges(served).values())
    changes = served.write("b.yaml", policy("of-cart", to("Service", "cart")))
    assert [set(one) for one in changes] == [{ROUTES}], "filters that change would close connections"
    assert rule("of-cart") in str(judges(served))
    served.write("b.yaml", policy("of-cart", to("Service", "other")))
    assert all(not names for names in judges(served).values())


def test_a_policy_that_becomes_another_actions_is_at_no_moment_in_neither_place() -> None:
    """CUSTOM judges in the chain, DENY with the routes: the chain waits for routes by a name that it has not had."""
    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), policy("of-cart", to("Service", "cart"), body="action: DENY, rules: [{}]"))
    table = "inbound-vip|80|http|cart.shop.svc.cluster.local"
    assert f"'route_config_name': '{table}'" in str(as_json(served.of(LISTENER)["main_internal"]))
    custom = "action: CUSTOM, provider: {name: nobody}, rules: [{}]"
    served.write("a.yaml", service("cart", "10.96.0.1"), policy("of-cart", to("Service", "cart"), body=custom))
    (other,) = (name for name in served.of(ROUTES) if name.startswith(table))
    assert other != table
    assert f"'route_config_name': '{other}'" in str(as_json(served.of(LISTENER)["main_internal"]))
    assert served.of(ROUTES)[other].name == other


def test_a_policy_that_can_not_be_read_lets_nobody_in() -> None:
    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"))
    unread = policy("of-cart", to("Service", "cart"), body="rulez: [{}]")
    served.write("b.yaml", unread)
    (names,) = judges(served).values()
    assert names == ["nothing"], "ALLOW, and no rule"
    good = policy("of-cart", to("Service", "cart"))
    served.write("b.yaml", good)
    served.write("b.yaml", unread)
    assert judges(served).popitem()[1] == [rule("of-cart")], "the last good one stays"


def test_gateways_alone_are_believed_when_they_say_for_whom_they_call() -> None:
    served = Served()
    blocks = "rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]"
    served.write("a.yaml", service("cart", "10.96.0.1"), policy("of-cart", to("Service", "cart"), body=blocks))
    table = "inbound-vip|80|http|cart.shop.svc.cluster.local"
    assert "/sa/" not in str(served.of(ROUTES)[table]), "there is none, nor is a waypoint one"
    gateway = GATEWAY.replace("name: waypoint, namespace: shop", "name: gate, namespace: edge").replace("istio-waypoint", "istio")
    served.write("edge.yaml", gateway.replace("15008, protocol: HBONE", "80, protocol: HTTP"))
    assert "spiffe://cluster.local/ns/edge/sa/gate" in str(served.of(ROUTES)[table])


def test_keys_from_allowed_hosts_only(tmp_path: Path) -> None:
    served = Served(settings=MeshSettings(key_hosts=frozenset({"keys.test"})))
    served.write("a.yaml", service("cart", "10.96.0.1"), service("till", "10.96.0.2"), pod("cart-1", "cart", "10.0.0.1"))
    served.write(
        "b.yaml",
        tokens("good", to("Service", "cart"), "jwksUri: 'https://keys.test/keys'"),
        tokens("again", to("Service", "till"), "jwksUri: 'https://keys.test/keys'"),
        tokens("bad", to("Service", "cart"), "jwksUri: 'https://169.254.169.254/keys'"),
    )
    names = [one.name for one in served.of(CLUSTER).values() if one.name.startswith("keys|")]
    assert names == ["keys|443|tls|keys.test"]
    assert "169.254" not in str(served.of(LISTENER)) + str(served.of(CLUSTER))
    validate(tmp_path, served.view)


def test_all_routes_of_a_waypoint_say_what_they_are_judged_by() -> None:
    """Whatever the routes: what is asked for without a word on policies would pass."""
    served = Served()
    rules = "[{match: [{uri: {prefix: /a}}], directResponse: {status: 418}}, {redirect: {uri: /b}}]"
    served.write(
        "a.yaml",
        service("cart", "10.96.0.1"),
        service("till", "10.96.0.2", "[{name: unsaid, port: 80, targetPort: 8080}]"),
        pod("cart-1", "cart", "10.0.0.1"),
        f"""
    kind: VirtualService
    apiVersion: networking.istio.io/v1
    metadata: {{name: cart, namespace: shop}}
    spec: {{hosts: [cart], http: {rules}}}
""",
        policy("of-paths", to("Gateway", "waypoint"), body="rules: [{to: [{operation: {paths: [/a]}}]}]"),
    )
    tables = [as_json(one) for name, one in served.of(ROUTES).items() if name.startswith("inbound-vip")]
    assert len(tables) == 2
    for table in tables:
        seats = table["typed_per_filter_config"]
        assert {name.removeprefix(HTTP_RBAC) for name in seats} == {".log", ".deny", ".allow"}
        assert rule("of-paths") in seats[f"{HTTP_RBAC}.allow"]["rbac"]["rules"]["policies"]
