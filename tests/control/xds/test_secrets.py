"""A gateway has the secrets that its servers name, as they change, and no others."""

import pytest

from control.envoy.built import LISTENER, SECRET
from control.envoy.messages import message_class
from control.envoy.secrets import secrets_of
from control.xds.secrets import SecretView, Stores
from tests.control.envoy.authority import Authority
from tests.control.envoy.gateways.test_gateway import EDGE, Edge, bound, gateway, https, istio_gateway
from tests.control.envoy.test_waypoint import WAYPOINT, Served, service

NAME = "kubernetes://infra/cart"


def simple(credential: str) -> str:
    return istio_gateway("edge", https("s", "[a.example]", f"mode: SIMPLE, credentialName: {credential}"))


class Gateway:
    def __init__(self, tmp_path_factory: pytest.TempPathFactory, *texts: str) -> None:
        self.authority = Authority(tmp_path_factory.mktemp("authority"))
        self.edge = Edge(*texts)
        self.stores = Stores()
        self.store = self.stores.secrets
        self.view = SecretView(self.edge.world, self.stores, EDGE)
        self.told: list[tuple[str, ...]] = []
        self.view.watch(lambda changes: self.told.append(tuple(changes[SECRET])))

    def pair(self, *names: str) -> dict[str, bytes]:
        certificate, key = self.authority.issue(*names)
        return {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()}

    def write(self, *texts: str) -> None:
        self.edge.write("more.yaml", *texts)
        self.view.refresh()

    @property
    def names(self) -> set[str]:
        return set(self.view.names(SECRET))


def test_what_its_servers_name_as_it_comes_changes_and_goes(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = Gateway(tmp_path_factory, simple("cart"))
    assert found.names == set()
    found.store.put({("infra", "cart"): found.pair("a"), ("infra", "other"): found.pair("b"), ("shop", "cart"): found.pair("c")})
    assert (found.names, found.told) == ({NAME}, [(NAME,)])
    before = found.view.get(SECRET, NAME)
    found.store.put({("infra", "cart"): found.pair("a.new")})
    after = found.view.get(SECRET, NAME)
    assert before is not None
    assert after is not None
    assert before.version != after.version
    message = message_class(SECRET.partition("/")[2]).FromString(after.body)
    assert message.tls_certificate.private_key.inline_bytes
    found.store.put({("infra", "cart"): None})
    assert (found.names, found.told) == (set(), [(NAME,)] * 3)


def test_nobody_elses(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = Gateway(tmp_path_factory, simple("cart"))
    found.store.put({("infra", "other"): found.pair("b")})
    assert list(found.view.resolve(SECRET, "kubernetes://infra/other")) == []
    found.write(simple("other"))
    assert (found.names, found.told) == ({"kubernetes://infra/other"}, [("kubernetes://infra/other",)])
    found.write("")
    assert found.names == set()
    assert found.told[-1] == ("kubernetes://infra/other",)


def test_a_renewal_that_can_not_be_used_leaves_the_former_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = Gateway(tmp_path_factory, simple("cart"))
    found.store.put({("infra", "cart"): found.pair("a")})
    before = found.view.get(SECRET, NAME)
    found.store.put({("infra", "cart"): {"tls.crt": b"", "tls.key": b"x"}})
    assert found.view.get(SECRET, NAME) == before
    assert found.view.failed.keys() == {NAME}
    found.store.put({("infra", "cart"): found.pair("a.again")})
    assert found.view.failed == {}
    assert found.view.get(SECRET, NAME) != before


def test_roots_change_with_either_of_their_secrets(tmp_path_factory: pytest.TempPathFactory) -> None:
    mutual = istio_gateway("edge", https("s", "[a.example]", "mode: MUTUAL, credentialName: cart"))
    found = Gateway(tmp_path_factory, mutual)
    found.store.put({("infra", "cart"): {**found.pair("a"), "ca.crt": found.authority.root.read_bytes()}})
    assert found.names == {NAME, f"{NAME}-cacert"}
    other = Authority(tmp_path_factory.mktemp("other"))
    found.told.clear()
    found.store.put({("infra", "cart-cacert"): {"ca.crt": other.root.read_bytes()}})
    assert found.told == [(f"{NAME}-cacert",)]


def test_a_listener_needs_a_grant_for_another_namespaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    listeners = "[{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cart, namespace: shop}]}}]"
    found = Gateway(tmp_path_factory)
    found.edge.write("base.yaml", gateway(listeners))
    found.store.put({("shop", "cart"): found.pair("a")})
    found.write("")
    assert found.names == set()
    found.write(
        """
    kind: ReferenceGrant
    apiVersion: gateway.networking.k8s.io/v1beta1
    metadata: {name: g, namespace: shop}
    spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}], to: [{group: "", kind: Secret, name: cart}]}
"""
    )
    assert found.names == {"kubernetes://shop/cart"}


def test_rules_for_calls_have_secrets_of_the_proxys_own_namespace_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    def outside(namespace: str) -> str:
        return f"""
    kind: ServiceEntry
    apiVersion: networking.istio.io/v1
    metadata: {{name: bank, namespace: {namespace}}}
    spec: {{hosts: [bank.{namespace}.example], ports: [{{number: 443, name: https, protocol: HTTP}}], resolution: DNS}}
---
    kind: DestinationRule
    apiVersion: networking.istio.io/v1
    metadata: {{name: bank, namespace: {namespace}}}
    spec: {{host: bank.{namespace}.example, trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: client}}}}}}
"""

    routes = "http: [{route: [{destination: {host: bank.infra.example}, weight: 1}, {destination: {host: bank.shop.example}, weight: 1}]}]"
    open_port = istio_gateway("edge", "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}")
    found = Gateway(tmp_path_factory, open_port, outside("infra"), outside("shop"), bound("bank", f"hosts: [pay.example], {routes}"))
    pair = found.pair("client.example")
    found.store.put({("infra", "client"): {**pair, "ca.crt": found.authority.root.read_bytes()}, ("shop", "client"): pair})
    assert found.names == {"kubernetes://infra/client", "kubernetes://infra/client-cacert"}


def test_a_waypoint_has_those_by_which_the_rules_for_its_services_call() -> None:
    def rule(name: str, mode: str) -> str:
        return f"""
    kind: DestinationRule
    apiVersion: networking.istio.io/v1
    metadata: {{name: {name}, namespace: shop}}
    spec: {{host: {name}.shop.svc.cluster.local, trafficPolicy: {{tls: {{mode: {mode}, credentialName: of-{name}}}}}}}
"""

    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), rule("cart", "SIMPLE"), service("till", "10.96.0.2"), rule("till", "MUTUAL"))
    served.write("b.yaml", service("free", "10.96.0.3", label="none"), rule("free", "SIMPLE"))
    of_till = {"kubernetes://shop/of-till", "kubernetes://shop/of-till-cacert"}
    assert served.world.ask(secrets_of, WAYPOINT) == {"kubernetes://shop/of-cart-cacert", *of_till}
    served.write("a.yaml", service("cart", "10.96.0.1"))
    assert served.world.ask(secrets_of, WAYPOINT) == frozenset()


def test_what_it_lacks_is_told_with_the_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = Gateway(tmp_path_factory, simple("cart"))
    assert found.view.problems == {NAME: "is not there"}
    found.store.complain({("infra", "cart"): "403 Forbidden"})
    assert found.view.problems == {NAME: "can't be read: 403 Forbidden"}
    found.store.complain({})
    found.store.put({("infra", "cart"): {"tls.crt": b"x", "tls.key": b"y"}})
    assert found.view.problems == {NAME: "its certificate is no PEM"}
    found.store.put({("infra", "cart"): found.pair("a")})
    assert found.view.problems == {}


def validating(reference: str, mode: str = "AllowValidOnly", more: str = "") -> str:
    asked = f"frontendValidation: {{caCertificateRefs: [{reference}], mode: {mode}}}"
    return gateway(f"[{{name: s, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cart}}], {asked}{more}}}}}]")


ROOTS = "configmap://infra/roots"


def test_roots_of_clients_from_a_config_map(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = Gateway(tmp_path_factory)
    found.edge.write("base.yaml", validating("{kind: ConfigMap, name: roots}"))
    found.write("")
    roots = {"ca.crt": found.authority.root.read_bytes()}
    found.store.put({("infra", "cart"): found.pair("a"), ("infra", "roots"): roots})
    assert found.names == {NAME}, "a Secret of that name is another thing"
    found.stores.config_maps.put({("infra", "roots"): roots, ("infra", "cart"): found.pair("b")})
    assert found.names == {NAME, ROOTS}
    served = found.view.get(SECRET, ROOTS)
    assert served is not None
    message = message_class(SECRET.partition("/")[2]).FromString(served.body)
    assert message.validation_context.trusted_ca.inline_bytes == roots["ca.crt"]
    assert {(one.name, one.config_map) for one in found.view.wanted} == {("cart", False), ("roots", True)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (validating("{kind: ConfigMap, name: roots, namespace: shop}"), "no ReferenceGrant"),
        (validating("{kind: Secret, name: roots}"), "one ConfigMap"),
        (validating("{kind: ConfigMap, name: a}, {kind: ConfigMap, name: b}"), "one ConfigMap"),
        (validating("{kind: ConfigMap, name: roots}", "AllowInsecureFallback"), "is not served"),
        (validating("{kind: ConfigMap, name: roots}", more=", options: {gateway.istio.io/tls-terminate-mode: MUTUAL}"), "said twice"),
    ],
)
def test_roots_that_can_not_be_taken_leave_the_listener_closed(tmp_path_factory: pytest.TempPathFactory, text: str, why: str) -> None:
    found = Gateway(tmp_path_factory)
    found.edge.write("base.yaml", text)
    assert any(why in problem for problem in found.edge.problems), found.edge.problems
    assert "0.0.0.0_443" not in found.edge.view.names(LISTENER)
