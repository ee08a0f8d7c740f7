"""control/envoy/tracing.py: real requests through a real Envoy, and the spans that collectors are told of."""

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any

import pytest

from control.envoy.built import CLUSTER, LISTENER
from control.envoy.messages import new
from tests.control.envoy.collectors import Collector, by_grpc, by_http
from tests.control.envoy.echo import upstream
from tests.control.envoy.real_envoy import RealEnvoy, as_json, running
from tests.control.envoy.test_access_logs import config
from tests.control.envoy.test_waypoint import Served, pod, service
from tests.control.waypoint.test_reports import PAGE, cluster, listener

MESH = """
extensionProviders:
- name: otlp
  opentelemetry: {service: otlp.shop.svc.cluster.local, port: 4317, grpc: {timeout: 3s, initialMetadata: [{name: X-Team, value: shop}]}}
- name: web
  opentelemetry:
    service: shop/web.shop.svc.cluster.local
    port: 4318
    http: {path: /otlp/v1/traces, timeout: 3s, headers: [{name: x-team, value: shop}]}
- name: zipkin
  zipkin: {service: zipkin.shop.svc.cluster.local, port: 9411, traceContextOption: USE_B3_WITH_W3C_PROPAGATION}
- name: old
  zipkin: {service: zipkin.shop.svc.cluster.local, port: 9411, enable64bitTraceId: true, maxTagLength: 12}
defaultProviders: {tracing: [otlp]}
"""
ENTRIES = {
    "all": "{randomSamplingPercentage: 100, customTags: {team: {literal: {value: shop}}, "
    "device: {header: {name: x-device, defaultValue: none}}, how: {formatter: {value: '%RESPONSE_CODE% %REQ(x-device)%'}}}}",
    "none": "{randomSamplingPercentage: 0}",
    "silent": "{disableSpanReporting: true}",
    "by-web": "{randomSamplingPercentage: 100, enableIstioTags: false, providers: [{name: web}]}",
    "by-zipkin": "{randomSamplingPercentage: 100, providers: [{name: zipkin}], useRequestIdForTraceSampling: false}",
    "by-old": "{randomSamplingPercentage: 100, providers: [{name: old}]}",
}
"""What Telemetry says of the service with each name."""
FLUSHING = ("tracing.opentelemetry.min_flush_spans", "tracing.zipkin.min_flush_spans")
"""How many spans are told at once."""


def telemetry(name: str, entry: str) -> str:
    return f"""
    kind: Telemetry
    apiVersion: telemetry.istio.io/v1
    metadata: {{name: {name}, namespace: shop}}
    spec: {{targetRefs: [{{kind: Service, name: {name}}}], tracing: [{entry}]}}
"""


def collector(name: str, port: str, address: str) -> str:
    mine = service(name, address.replace("10.0.", "10.96."), port, label="none")
    return "\n---\n".join((mine, pod(f"{name}-1", name, address, mesh="none")))


def called(name: str, address: str) -> str:
    """A service of the one server that there is."""
    return service(name, address).replace(f"selector: {{app: {name}}}", "selector: {app: server}")


class Site:
    def __init__(self, envoy: RealEnvoy, otlp: Collector, web: Collector) -> None:
        self.envoy = envoy
        self.otlp = otlp
        self.web = web

    def ask(self, name: str, path: str, **headers: str) -> dict[str, Any]:
        """What arrived at the server."""
        connection = HTTPConnection("127.0.0.1", self.envoy.ports[f"http-{name}"], timeout=20)
        try:
            connection.request("GET", path, headers={"host": name, **{key.replace("_", "-"): value for key, value in headers.items()}})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            return dict(json.loads(answer.read())["headers"])
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    served = Served()
    served.write("mesh.yaml", config(MESH))
    served.write(
        "collectors.yaml",
        collector("otlp", "[{name: grpc-otlp, port: 4317, targetPort: 8080}]", "10.0.1.1"),
        collector("web", "[{name: http-otlp, port: 4318, targetPort: 8080}]", "10.0.1.2"),
        collector("zipkin", "[{name: http, port: 9411, targetPort: 8080}]", "10.0.1.3"),
    )
    served.write("server.yaml", pod("server", "server", "10.0.0.1", mesh="none"))
    for number, (name, entry) in enumerate(ENTRIES.items(), 1):
        served.write(f"{name}.yaml", called(name, f"10.96.0.{number}"), telemetry(name, entry))
    with ExitStack() as stack:
        server, otlp, web = stack.enter_context(upstream("server")), stack.enter_context(by_grpc()), stack.enter_context(by_http())
        ports = {"10.0.0.1": server.port, "10.0.1.1": otlp.port, "10.0.1.2": web.port, "10.0.1.3": web.port}
        chains = [one for one in served.of(LISTENER)["main_internal"].filter_chains if "|http|" in one.name]
        clusters = [cluster(served, one, ports) for name, one in served.of(CLUSTER).items() if "vip" in name]
        envoy = running(
            tmp_path_factory.mktemp("tracing"),
            [as_json(listener(served, one)) for one in chains],
            [as_json(one) for one in (*clusters, new("envoy.config.cluster.v3.Cluster", name="sds-grpc", type="STATIC"))],
            node={"id": "waypoint", "cluster": "waypoint.shop"},
            layered_runtime={"layers": [{"name": "soon", "static_layer": dict.fromkeys(FLUSHING, 1)}]},
        )
        yield Site(stack.enter_context(envoy), otlp, web)


def context() -> tuple[str, str, str]:
    """A trace that has begun elsewhere: its id, the id of its last span, and the header that says both."""
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    return trace, parent, f"00-{trace}-{parent}-01"


def test_a_span_by_grpc_is_a_child_of_its_clients_and_the_parent_of_its_servers(site: Site) -> None:
    trace, parent, header = context()
    arrived = site.ask("all", "/grpc/1", traceparent=header, x_device="phone")
    span = site.otlp.span("/grpc/1")
    assert (span.trace, span.parent, span.producer) == (trace, parent, "waypoint.shop")
    assert arrived["traceparent"] == f"00-{trace}-{span.id}-01"
    assert site.otlp.headers[-1]["x-team"] == "shop"
    wanted = {"team": "shop", "device": "phone", "how": "200 phone", "istio.source_principal": PAGE, "istio.mesh_id": "cluster.local"}
    wanted |= {"istio.canonical_service": "waypoint", "istio.namespace": "shop", "http.status_code": "200", "http.method": "GET"}
    assert {name: span.tags.get(name) for name in wanted} == wanted


def test_a_trace_that_begins_here(site: Site) -> None:
    arrived = site.ask("all", "/grpc/begins")
    span = site.otlp.span("/grpc/begins")
    assert (span.parent, span.tags["device"]) == ("", "none")
    assert arrived["traceparent"] == f"00-{span.trace}-{span.id}-01"


def test_spans_by_otlp_over_http(site: Site) -> None:
    trace, parent, header = context()
    site.ask("by-web", "/web/1", traceparent=header)
    span = site.web.span("/web/1")
    assert (span.trace, span.parent) == (trace, parent)
    assert not any(name.startswith("istio.") for name in span.tags)
    at = site.web.paths.index("/otlp/v1/traces")
    assert (site.web.headers[at]["x-team"], site.web.headers[at]["host"]) == ("shop", "web.shop.svc.cluster.local:4318")


def test_spans_by_zipkin_with_both_kinds_of_headers(site: Site) -> None:
    trace, parent, _ = context()
    arrived = site.ask("by-zipkin", "/zipkin/1", x_b3_traceid=trace, x_b3_spanid=parent, x_b3_sampled="1")
    span = site.web.span("/zipkin/1")
    assert (span.trace, span.parent, span.producer) == (trace, parent, "waypoint.shop")
    assert (arrived["x-b3-traceid"], arrived["x-b3-spanid"], arrived["x-b3-sampled"]) == (trace, span.id, "1")
    assert arrived["traceparent"] == f"00-{trace}-{span.id}-01"
    assert "/api/v2/spans" in site.web.paths


def test_short_ids_and_paths_that_are_cut(site: Site) -> None:
    arrived = site.ask("by-old", "/old/123456789")
    span = site.web.span("/old/1234567")
    assert len(span.trace) == 16
    assert arrived["x-b3-spanid"] == span.id
    assert "traceparent" not in arrived
    assert "456789" not in span.tags["http.url"].replace("/old/1234567", "")


def test_none_of_the_requests_or_no_spans_at_all(site: Site) -> None:
    _, _, header = context()
    for _ in range(20):
        assert site.ask("none", "/none/begins")["traceparent"].endswith("-00"), "the server is told that nobody traces it"
    assert site.ask("silent", "/silent/1", traceparent=header)["traceparent"] == header, "who does not trace hands on what it gets"
    site.ask("all", "/all/last")
    site.otlp.span("/all/last")
    assert not site.otlp.told("/none/")
    assert not site.otlp.told("/silent/")


def test_what_another_proxy_has_decided_stays_decided(site: Site) -> None:
    """The request's id says so: a trace has no gaps where proxies trace different shares of their requests."""
    arrived = site.ask("all", "/decided/first")
    kept = {name.replace("-", "_"): arrived[name] for name in ("x-request-id", "traceparent")}
    site.ask("none", "/decided/then", **kept)
    first, then = site.otlp.span("/decided/first"), site.otlp.span("/decided/then")
    assert (then.trace, then.parent) == (first.trace, first.id)
