"""control/envoy/tracing_rules.py: what is traced where, as Telemetry and the mesh configuration say it, and what is asked for in vain."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER
from control.envoy.messages import message_class
from control.envoy.place import Place
from control.envoy.tracing_rules import Tracer, TracingRules, tracing_at
from control.kinds.tracing import ZipkinTracing
from tests.control.envoy.gateways.test_gateway import EDGE, Edge, http, istio_gateway
from tests.control.envoy.test_access_logs import config
from tests.control.envoy.test_waypoint import WAYPOINT, Served, pod, service
from tests.control.envoy.validation import validate

CART = Place(WAYPOINT, "shop/cart.shop.svc.cluster.local", 80)
TILL = Place(WAYPOINT, "shop/till.shop.svc.cluster.local", 80)
MESH = """
extensionProviders:
- {name: otlp, opentelemetry: {service: otlp.shop.svc.cluster.local, port: 4317}}
- {name: zipkin, zipkin: {service: otlp.shop.svc.cluster.local, port: 9411}}
- {name: plain, opentelemetry: {service: otlp.shop.svc.cluster.local, port: 9411}}
- {name: gone, zipkin: {service: nobody.shop.svc.cluster.local, port: 9411}}
- {name: foreign, opentelemetry: {service: other/otlp.shop.svc.cluster.local, port: 4317}}
- {name: sampler, opentelemetry: {service: otlp.shop.svc.cluster.local, port: 4317, dynatraceSampler: {tenant: a}}}
- {name: lines, envoyFileAccessLog: {}}
"""
DEFAULT = f"{MESH}\ndefaultProviders: {{tracing: [otlp]}}"
COLLECTOR = (
    service("otlp", "10.96.1.1", "[{name: grpc-otlp, port: 4317}, {name: http-zipkin, port: 9411}]", label="none"),
    pod("otlp-1", "otlp", "10.0.1.1"),
)


def telemetry(name: str, tracing: str, namespace: str = "shop", more: str = "") -> str:
    return f"""
    kind: Telemetry
    apiVersion: telemetry.istio.io/v1
    metadata: {{name: {name}, namespace: {namespace}}}
    spec: {{tracing: {tracing}{more}}}
"""


def served(mesh: str, *texts: str) -> Served:
    found = Served()
    found.write("services.yaml", service("cart", "10.96.0.1"), service("till", "10.96.0.2"), pod("cart-1", "cart", "10.0.0.1"), *COLLECTOR)
    found.write("mesh.yaml", config(mesh), *texts)
    return found


def at(place: Place, *texts: str, mesh: str = MESH) -> TracingRules:
    return served(mesh, *texts).world.ask(tracing_at, place)


def tracer(place: Place, *texts: str, mesh: str = MESH) -> Tracer:
    found = at(place, *texts, mesh=mesh).tracer
    assert found is not None
    return found


def test_without_a_provider_nothing_is_traced() -> None:
    assert at(CART) == at(CART, mesh="{}") == TracingRules()
    assert at(CART, telemetry("all", "[{randomSamplingPercentage: 50}]")).tracer is None


def test_the_mesh_configuration_alone() -> None:
    found = tracer(CART, mesh=DEFAULT)
    assert (found.cluster.name, found.percentage, found.tags) == ("inbound-vip|4317|http|otlp.shop.svc.cluster.local", 1.0, {})
    found = tracer(
        CART,
        mesh=f"{DEFAULT}\ndefaultConfig: {{tracing: {{sampling: 20, maxPathTagLength: 9, customTags: {{a: {{literal: {{value: b}}}}}}}}}}",
    )
    assert (found.percentage, found.max_path_length, list(found.tags)) == (20, 9, ["a"])


def test_narrower_objects_change_what_they_name() -> None:
    texts = (
        telemetry("all", "[{providers: [{name: zipkin}], randomSamplingPercentage: 10}]", "istio-system"),
        telemetry("shop", "[{customTags: {a: {literal: {value: b}}}, enableIstioTags: false}]"),
        telemetry("cart", "[{randomSamplingPercentage: 0.5}]", more=", targetRefs: [{kind: Service, name: cart}]"),
        telemetry("till", "[{disableSpanReporting: true}]", more=", targetRefs: [{kind: Service, name: till}]"),
    )
    found = tracer(CART, *texts)
    assert isinstance(found.collector, ZipkinTracing)
    assert (found.percentage, list(found.tags), found.istio_tags) == (0.5, ["a"], False)
    assert [key.name for key in at(CART, *texts).sources] == ["all", "shop", "cart"]
    assert at(TILL, *texts).tracer is None


def test_waypoints_are_servers_and_gateways_clients() -> None:
    both = telemetry(
        "sides",
        "[{providers: [{name: otlp}], randomSamplingPercentage: 1},"
        " {match: {mode: SERVER}, randomSamplingPercentage: 2}, {match: {mode: CLIENT}, randomSamplingPercentage: 3}]",
        "istio-system",
    )
    assert tracer(CART, both).percentage == 2
    edge = Edge(config(MESH), both, *COLLECTOR, istio_gateway("a", http()))
    found = edge.world.ask(tracing_at, Place(EDGE, None, 80)).tracer
    assert found is not None
    assert found.percentage == 3


@pytest.mark.parametrize(("labels", "traced"), [("{istio: ingress}", True), ("{istio: egress}", False)])
def test_a_gateway_is_chosen_by_its_labels(labels: str, traced: bool, tmp_path: Path) -> None:
    chosen = telemetry("edge", "[{providers: [{name: otlp}]}]", "infra", f", selector: {{matchLabels: {labels}}}")
    edge = Edge(config(MESH), chosen, *COLLECTOR, istio_gateway("a", http()))
    (listener,) = [one for name, one in edge.of(LISTENER).items() if "80" in name]
    manager = message_class("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager").FromString(
        listener.filter_chains[0].filters[-1].typed_config.value
    )
    assert manager.HasField("tracing") is traced
    assert ("inbound-vip|4317|http|otlp.shop.svc.cluster.local" in edge.of(CLUSTER)) is traced
    validate(tmp_path, edge.view)


VAIN: Mapping[str, str] = {
    "otlq": "is not in the mesh configuration",
    "lines": "is none of spans that can be used here: opentelemetry, zipkin",
    "sampler": "asks for samplers or resource detectors, which are not used here",
    "gone": "there is no service 'nobody.shop.svc.cluster.local' of the mesh with a port 9411",
    "foreign": "there is no service 'other/otlp.shop.svc.cluster.local' of the mesh with a port 4317",
    "plain": "with a port 9411 that says it speaks gRPC",
}


@pytest.mark.parametrize("name", VAIN)
def test_a_provider_that_can_not_be_used_is_told_and_nothing_is_traced(name: str) -> None:
    found = at(CART, telemetry("asks", f"[{{providers: [{{name: {name}}}]}}]"), mesh=DEFAULT)
    assert found.tracer is None
    (problem,) = found.problems
    assert problem.object.name == "asks"
    assert VAIN[name] in problem.what


def test_the_collector_is_reached_as_any_service_of_the_mesh(tmp_path: Path) -> None:
    found = served(DEFAULT)
    name = "inbound-vip|4317|http|otlp.shop.svc.cluster.local"
    (place,) = found.of(ENDPOINTS)[name].endpoints
    assert place.lb_endpoints[0].endpoint.address.envoy_internal_address.server_listener_name == "connect_originate", "through a tunnel"
    validate(tmp_path, found.view)
    found.write("mesh.yaml", config(MESH))
    assert name not in found.of(CLUSTER)


@pytest.mark.parametrize("address", ["otlp.shop:9411", "otlp.shop.svc.cluster.local:9411"])
def test_the_form_of_older_documents(address: str, tmp_path: Path) -> None:
    older = f"defaultConfig: {{tracing: {{sampling: 5, zipkin: {{address: '{address}'}}}}}}"
    found = tracer(CART, mesh=older)
    assert (found.cluster.port, found.percentage) == (9411, 5)
    validate(tmp_path, served(older).view)
    assert at(CART, mesh=f"enableTracing: false\n{older}").tracer is None
    assert at(CART, telemetry("own", "[{randomSamplingPercentage: 7}]"), mesh=older).tracer is None, "who uses Telemetry names a provider"
    assert at(CART, mesh=older.replace("otlp", "nobody")).tracer is None
