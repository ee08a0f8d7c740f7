"""control/envoy/logging_rules.py: which lines Telemetry asks for, where; and that Envoy takes every expression that is let through."""

import json
from pathlib import Path

import pytest

from control.envoy.logging_rules import Logging, logging_at
from control.envoy.place import Place
from control.validation.document import read_documents
from tests.control.envoy.gateways.test_gateway import EDGE, Edge, http, istio_gateway
from tests.control.envoy.test_access_logs import config
from tests.control.envoy.test_waypoint import WAYPOINT, Served, pod, service
from tests.control.envoy.validation import validate
from tests.control.validation.test_log_filters import GOOD

CART = Place(WAYPOINT, "shop/cart.shop.svc.cluster.local", 80)
TILL = Place(WAYPOINT, "shop/till.shop.svc.cluster.local", 80)
MESH = """
accessLogFile: /dev/stdout
extensionProviders:
- {name: errors, envoyFileAccessLog: {path: /dev/stderr, logFormat: {labels: {code: '%RESPONSE_CODE%'}}}}
- {name: collector, envoyOtelAls: {service: otel.shop.svc.cluster.local, port: 4317}}
"""


def telemetry(name: str, logging: str, namespace: str = "shop", more: str = "") -> str:
    return f"""
    kind: Telemetry
    apiVersion: telemetry.istio.io/v1
    metadata: {{name: {name}, namespace: {namespace}}}
    spec: {{accessLogging: {logging}{more}}}
"""


def at(place: Place, *texts: str, mesh: str = MESH) -> Logging:
    served = Served()
    served.write("services.yaml", service("cart", "10.96.0.1"), service("till", "10.96.0.2"), pod("cart-1", "cart", "10.0.0.1"))
    served.write("mesh.yaml", config(mesh), *texts)
    return served.world.ask(logging_at, place)


def said(found: Logging) -> list[tuple[str, str]]:
    """Where lines go, and which."""
    return [(one.path, one.expression) for one in found.outputs]


def test_without_any_the_mesh_configuration_holds() -> None:
    assert said(at(CART)) == [("/dev/stdout", "")]
    assert said(at(CART, mesh="{}")) == []


def test_the_narrowest_has_the_last_word() -> None:
    texts = (
        telemetry("all", "[{providers: [{name: errors}], filter: {expression: response.code >= 500}}]", "istio-system"),
        telemetry("shop", "[{filter: {expression: response.code >= 400}}]"),
        telemetry("cart", "[{disabled: true}]", more=", targetRefs: [{kind: Service, name: cart}]"),
    )
    assert said(at(CART, *texts[:1])) == [("/dev/stderr", "response.code >= 500")]
    assert said(at(CART, *texts[:2])) == [("/dev/stderr", "response.code >= 400")]
    assert said(at(CART, *texts)) == []
    found = at(TILL, *texts)
    assert said(found) == [("/dev/stderr", "response.code >= 400")]
    assert [key.name for key in found.sources] == ["all", "shop"]


def test_the_gateway_is_narrower_than_its_namespace_and_wider_than_a_service() -> None:
    texts = (
        telemetry("cart", "[{providers: [{name: errors}]}]", more=", targetRefs: [{kind: Service, name: cart}]"),
        telemetry("gate", "[{disabled: true}]", more=", targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]"),
    )
    assert said(at(TILL, *texts)) == []
    assert said(at(CART, *texts)) == [("/dev/stderr", "")], "disabled is the provider that was there, not whom the service names"


def test_other_namespaces_and_the_clients_end_have_no_say() -> None:
    texts = (telemetry("theirs", "[{disabled: true}]", "team"), telemetry("clients", "[{match: {mode: CLIENT}, disabled: true}]"))
    assert said(at(CART, *texts)) == [("/dev/stdout", "")]


@pytest.mark.parametrize("name", ["collector", "nobody"])
def test_a_provider_that_can_not_be_used_is_told_of(name: str) -> None:
    found = at(CART, telemetry("x", f"[{{providers: [{{name: {name}}}]}}]"))
    assert said(found) == []
    (problem,) = found.problems
    assert problem.object.name == "x"
    assert name in problem.what


def test_envoy_takes_every_expression_that_is_let_through(tmp_path: Path) -> None:
    served = Served()
    names = [f"s{number}" for number in range(len(GOOD))]
    for number, (name, expression) in enumerate(zip(names, GOOD, strict=True)):
        rule = f"[{{filter: {{expression: {json.dumps(expression)}}}}}]"
        ports = "[{name: http, port: 80}, {name: tcp-db, port: 82}]"
        target = f", targetRefs: [{{kind: Service, name: {name}}}]"
        served.write(f"{name}.yaml", service(name, f"10.96.1.{number + 1}", ports), telemetry(name, rule, more=target))
    served.write("mesh.yaml", config(MESH))
    assert said(served.world.ask(logging_at, Place(WAYPOINT, "shop/s3.shop.svc.cluster.local", 82))) == [("/dev/stdout", GOOD[3])]
    validate(tmp_path, served.view)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (telemetry("x", "[{filter: {expression: 'response.code'}}]"), "to be compared"),
        (telemetry("x", "[{unknown: 1}]"), "unknown"),
        (telemetry("x", "[]", more=", selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]"), "both a selector"),
        (telemetry("x", "[]", more=", targetRefs: [{kind: Deployment, name: a}]"), "can't be for"),
        (telemetry("x", "[{providers: [{}]}]"), "empty name"),
    ],
)
def test_what_is_refused(text: str, what: str) -> None:
    (document,) = read_documents(text, "x.yaml", "istio-system")
    assert document.object is None
    assert any(what in finding.what for finding in document.findings)


def test_what_a_selector_does_not_choose_is_said() -> None:
    (document,) = read_documents(telemetry("x", "[]", more=", selector: {matchLabels: {a: b}}"), "x.yaml", "istio-system")
    assert document.object is not None
    assert [finding.what for finding in document.findings] == ["chooses gateways by their labels, and no waypoints"]


def test_a_gateway_is_a_client() -> None:
    sides = "[{providers: [{name: errors}]}, {match: {mode: SERVER}, disabled: true}]"
    assert said(at(CART, telemetry("sides", sides, "istio-system"))) == []
    edge = Edge(config(MESH), telemetry("sides", sides, "istio-system"), istio_gateway("a", http()))
    assert said(edge.world.ask(logging_at, Place(EDGE, None, 80))) == [("/dev/stderr", "")]
