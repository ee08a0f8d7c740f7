"""control/envoy/metric_rules.py: which metrics and labels Telemetry leaves out, and how reports carry that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.envoy.built import LISTENER
from control.envoy.metric_rules import metrics_at
from control.envoy.place import Place
from control.envoy.reports import MetricRule, read_rules, rules_text
from control.kinds.telemetry import Metric
from control.validation.document import read_documents
from tests.control.envoy.real_envoy import as_json
from tests.control.envoy.test_waypoint import WAYPOINT, Served, service

CART = Place(WAYPOINT, "shop/cart.shop.svc.cluster.local", 80)


def telemetry(name: str, overrides: str, namespace: str = "shop", more: str = "") -> str:
    return f"""
    kind: Telemetry
    apiVersion: telemetry.istio.io/v1
    metadata: {{name: {name}, namespace: {namespace}}}
    spec: {{metrics: [{{providers: [{{name: prometheus}}], overrides: {overrides}}}]{more}}}
"""


def at(*texts: str) -> str:
    served = Served()
    served.write("all.yaml", service("cart", "10.96.0.1"), *texts)
    return served.world.ask(metrics_at, CART).text


def test_without_any_all_metrics_are_there() -> None:
    assert at() == ""


def test_a_narrower_object_changes_what_it_names() -> None:
    texts = (
        telemetry("all", "[{disabled: true}, {match: {metric: REQUEST_COUNT}, disabled: false}]", "istio-system"),
        telemetry("shop", "[{match: {metric: REQUEST_COUNT}, tagOverrides: {source_app: {operation: REMOVE}}}]"),
        telemetry(
            "cart",
            "[{match: {metric: REQUEST_SIZE}, disabled: false}, {tagOverrides: {x: {operation: REMOVE}}}]",
            more=", targetRefs: [{kind: Service, name: cart}]",
        ),
    )
    rules = read_rules(at(*texts))
    assert rules.pop("REQUEST_COUNT").removed == {"source_app", "x"}
    assert rules.pop("REQUEST_SIZE").removed == {"x"}
    assert all(rule.disabled for rule in rules.values())
    assert len(rules) == len(Metric) - 3


def test_the_clients_end_is_not_here() -> None:
    assert at(telemetry("x", "[{match: {mode: CLIENT}, disabled: true}]")) == ""
    assert at(telemetry("x", "[{match: {mode: SERVER, metric: REQUEST_SIZE}, disabled: true}]")) == "REQUEST_SIZE=!"


def test_what_has_no_metrics_is_not_reported() -> None:
    served = Served()

    def reported() -> int:
        return str(as_json(served.of(LISTENER)["main_internal"])).count("('path', 'reports')")

    front = service("cart", "10.96.0.1", "[{name: http, port: 80}, {name: tcp, port: 90}]")
    served.write("all.yaml", front)
    assert reported() == 2
    more = ", ".join(f"{{match: {{metric: REQUEST_{one}}}, disabled: true}}" for one in ("COUNT", "DURATION", "SIZE"))
    served.write("all.yaml", front, telemetry("x", f"[{more}]"))
    assert reported() == 2, "the size of answers is one"
    served.write("all.yaml", front, telemetry("x", f"[{more}, {{match: {{metric: RESPONSE_SIZE}}, disabled: true}}]"))
    assert reported() == 1
    served.write("all.yaml", front, telemetry("x", "[{disabled: true}]"))
    assert reported() == 0


NAMES = st.frozensets(st.from_regex("[a-z][a-z0-9_]*", fullmatch=True))
RULES = st.dictionaries(st.sampled_from(Metric), st.builds(MetricRule, st.booleans(), NAMES))


@given(RULES)
def test_what_is_written_is_what_is_read(rules: dict[Metric, MetricRule]) -> None:
    written = {
        metric: MetricRule(disabled=True) if rule.disabled else rule for metric, rule in rules.items() if rule.disabled or rule.removed
    }
    text = rules_text(rules)
    assert (read_rules(text) if text else {}) == written


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (telemetry("x", "[{tagOverrides: {source_app: {value: request.host}}}]"), "a label can be removed"),
        (telemetry("x", "[{tagOverrides: {'a;b': {operation: REMOVE}}}]"), "no label's name"),
        (telemetry("x", "[{match: {customMetric: mine}}]"), "standard metrics alone"),
        (telemetry("x", "[{match: {metric: ANY}}]"), "ANY"),
        (telemetry("x", "[]").replace("prometheus", "stackdriver"), "prometheus's alone"),
    ],
)
def test_what_is_refused(text: str, what: str) -> None:
    (document,) = read_documents(text, "x.yaml", "istio-system")
    assert document.object is None
    assert any(what in finding.what for finding in document.findings)
