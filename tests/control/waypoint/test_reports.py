"""Requests and connections through a real Envoy with the chains, clusters and endpoints that a waypoint is served: what its metrics say."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from control.envoy.messages import Message, message_class, new, packed
from control.envoy.parts import PEER, extension, shared_state
from control.envoy.reports import PIPE
from control.waypoint.metrics_server import PATH, serving_metrics
from control.waypoint.report_pipe import ReportPipe
from control.waypoint.request_metrics import RequestMetrics
from control.waypoint.workload_names import WorkloadNames
from demo.cluster import eventually
from tests.control.envoy.echo import upstream
from tests.control.envoy.real_envoy import as_json, running
from tests.control.envoy.test_waypoint import Served, pod, service

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
PAGE = "spiffe://cluster.local/ns/team/sa/page"
PORTS = "[{name: http, port: 80, targetPort: 8080}, {name: tcp-db, port: 82, targetPort: 8080}]"
DENIED = """
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: no-deletes, namespace: shop}
    spec:
      targetRefs: [{kind: Service, name: till}]
      action: DENY
      rules: [{to: [{operation: {methods: [DELETE]}}]}]
"""
LOCKED = """
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: not-the-page, namespace: shop}
    spec:
      targetRefs: [{kind: Service, name: vault}]
      action: DENY
      rules: [{from: [{source: {principals: [cluster.local/ns/team/sa/page]}}]}]
"""
LEFT_OUT = """
    kind: Telemetry
    apiVersion: telemetry.istio.io/v1
    metadata: {name: less, namespace: shop}
    spec:
      targetRefs: [{kind: Service, name: till}]
      metrics:
      - overrides:
        - {match: {metric: REQUEST_COUNT}, tagOverrides: {response_flags: {operation: REMOVE}}}
        - {match: {metric: REQUEST_DURATION}, disabled: true}
"""
WAIT_S = 30.0
Sample = tuple[dict[str, str], float]


@contextmanager
def beside(directory: Path) -> Iterator[int]:
    """The process beside Envoy, as far as reports and metrics go: the port of its metrics. Envoy is to run in `directory`."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def run() -> None:
        pipe, stop = ReportPipe(directory / PIPE), asyncio.Event()
        metrics = RequestMetrics(WorkloadNames(), lambda: pipe.lost)
        async with (
            pipe.reading(lambda lines: metrics.take(lines, time.monotonic())),
            serving_metrics(metrics, directory / "nowhere", ("127.0.0.1", 0)) as port,
        ):
            started.set_result((asyncio.get_running_loop(), stop, port or 0))
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="beside envoy")
    thread.start()
    loop, stop, port = started.result(WAIT_S)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def listener(served: Served, chain: Message) -> Message:
    """A listener with one chain as it is served, its routes in it, and a client that has come by a tunnel."""
    found = type(chain).FromString(chain.SerializeToString())
    manager = found.filters[-1]
    if manager.typed_config.type_url.endswith(MANAGER):
        fields = message_class(MANAGER).FromString(manager.typed_config.value)
        fields.route_config.CopyFrom(served.of(ROUTES)[chain.name])
        manager.typed_config.CopyFrom(packed(fields))
    state = extension("peer", "filters.network.set_filter_state.v3.Config", on_new_connection=[shared_state(PEER, PAGE, "envoy.string")])
    filters = [new("envoy.config.listener.v3.Filter", **state), *found.filters]
    del found.filters[:]
    found.filters.extend(filters)
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    _, _, layer, hostname = chain.name.split("|")
    return new("envoy.config.listener.v3.Listener", name=f"{layer}-{hostname.partition('.')[0]}", address=address, filter_chains=[found])


def cluster(served: Served, message: Message, ports: Mapping[str, int]) -> Message:
    """A cluster with its endpoints in it, which are servers of the test."""
    found = type(message).FromString(message.SerializeToString())
    found.ClearField("eds_cluster_config")
    found.type = found.DiscoveryType.Value("STATIC")
    found.load_assignment.CopyFrom(served.of(ENDPOINTS)[message.name])
    for place in found.load_assignment.endpoints:
        for one in place.lb_endpoints:
            address = one.endpoint.address.socket_address
            address.port_value, address.address = ports[address.address], "127.0.0.1"
    return found


class Site:
    """Envoy, and what its metrics say."""

    def __init__(self, ports: Mapping[str, int], metrics_port: int) -> None:
        self.ports = ports
        self._metrics_port = metrics_port

    def ask(self, method: str, path: str = "/", body: str = "", *, service: str = "cart", **headers: str) -> int:
        connection = HTTPConnection("127.0.0.1", self.ports[f"http-{service}"], timeout=WAIT_S)
        try:
            connection.request(method, path, body or None, {"host": f"{service}.shop", **headers})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def samples(self, name: str, **labels: str) -> list[Sample]:
        with urlopen(f"http://127.0.0.1:{self._metrics_port}{PATH}", timeout=WAIT_S) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            found = [(one.labels, one.value) for family in families for one in family.samples if one.name == name]
        return [one for one in found if labels.items() <= one[0].items()]

    def value(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self.samples(name, **labels))

    def until(self, holds: Callable[[], object], what: str) -> None:
        eventually(holds, what, timeout_s=WAIT_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("reports")
    served = Served()
    served.write("cart.yaml", service("cart", "10.96.0.1", PORTS), pod("cart-1", "cart", "10.0.0.1", mesh="none"))
    served.write("till.yaml", service("till", "10.96.0.2", "[{name: http, port: 80, targetPort: 8080}]"), DENIED, LEFT_OUT)
    vault = service("vault", "10.96.0.3", "[{name: tcp, port: 83, targetPort: 8080}]").replace(
        "selector: {app: vault}", "selector: {app: cart}"
    )
    served.write("vault.yaml", vault, LOCKED)
    with ExitStack() as stack:
        server = stack.enter_context(upstream("cart-1"))
        metrics_port = stack.enter_context(beside(directory))
        chains = served.of(LISTENER)["main_internal"].filter_chains
        clusters = [cluster(served, one, {"10.0.0.1": server.port}) for name, one in served.of(CLUSTER).items() if "vip" in name]
        listeners = [as_json(listener(served, one)) for one in chains]
        envoy = stack.enter_context(running(directory, listeners, [as_json(one) for one in clusters]))
        yield Site(envoy.ports, metrics_port)


def test_requests(site: Site) -> None:
    for _ in range(3):
        assert site.ask("POST", "/orders", "x" * 2000) == 200
    wanted = {"request_protocol": "http", "response_code": "200"}
    site.until(lambda: site.value("istio_requests_total", **wanted) == 3, "three requests to be counted")
    ((labels, _),) = site.samples("istio_requests_total", **wanted)
    assert {name: value for name, value in labels.items() if value != "unknown"} == wanted | {
        "reporter": "waypoint",
        "source_workload_namespace": "team",
        "source_principal": PAGE,
        "destination_service": "cart.shop.svc.cluster.local",
        "destination_service_namespace": "shop",
        "destination_service_name": "cart",
        "destination_workload": "cart-1",
        "destination_workload_namespace": "shop",
        "destination_canonical_service": "cart",
        "destination_canonical_revision": "v1",
        "destination_app": "cart",
        "destination_version": "v1",
        "destination_cluster": "Kubernetes",
        "response_flags": "-",
        "connection_security_policy": "mutual_tls",
        "grpc_response_status": "",
    }
    assert site.value("istio_request_duration_milliseconds_count", **wanted) == 3
    assert 0 < site.value("istio_request_duration_milliseconds_sum", **wanted) < 3000 * WAIT_S
    assert 3 * 2000 < site.value("istio_request_bytes_sum", **wanted) < 3 * 3000
    assert site.value("istio_response_bytes_sum", **wanted) > 3 * 2000, "the server sends back what it was sent"


def test_a_request_that_a_policy_denies_is_the_services_that_was_dialled(site: Site) -> None:
    assert site.ask("DELETE", service="till") == 403
    site.until(lambda: site.value("istio_requests_total", response_code="403") == 1, "the request to be counted")
    ((labels, _),) = site.samples("istio_requests_total", response_code="403")
    assert (labels["destination_service_name"], labels["destination_workload"]) == ("till", "unknown")
    assert "response_flags" not in labels, "Telemetry leaves it out"
    till = {"destination_service_name": "till"}
    assert site.samples("istio_request_bytes_count", **till)
    assert not site.samples("istio_request_duration_milliseconds_count", **till)


def test_what_a_peer_claims_becomes_no_label(site: Site) -> None:
    claims = {"baggage": "k8s.deployment.name=admin,service.name=admin", "x-envoy-peer-metadata": "admin", "x-forwarded-client-cert": "a"}
    assert site.ask("PUT", "/claimed", **claims) == 200
    site.ask("OPTIONS", "/no-grpc", **{"content-type": "application/grpc"})
    site.until(lambda: site.value("istio_requests_total", request_protocol="grpc") == 1, "the requests to be counted")
    assert "admin" not in json.dumps(site.samples("istio_requests_total"))


def test_a_connection_is_told_of_while_it_lasts(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.ports["tcp-cart"]), timeout=WAIT_S) as connection:
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        connection.sendall(request)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        site.until(lambda: site.value("istio_tcp_sent_bytes_total") >= len(answer), "its bytes to be counted")
        assert site.value("istio_tcp_connections_opened_total") == 1
        assert site.value("istio_tcp_connections_closed_total") == 0
        assert site.value("istio_tcp_received_bytes_total") == len(request)
    site.until(lambda: site.value("istio_tcp_connections_closed_total") == 1, "its end to be counted")
    assert site.value("istio_tcp_connections_opened_total") == 1
    assert site.value("istio_tcp_received_bytes_total") == len(request)
    ((labels, _), *_) = site.samples("istio_tcp_connections_opened_total")
    assert (labels["request_protocol"], labels["destination_workload"], labels["source_principal"]) == ("tcp", "cart-1", PAGE)
    assert "response_code" not in labels


def test_a_connection_that_a_policy_denies(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.ports["tcp-vault"]), timeout=WAIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1) == b""
    denied = {"destination_service_name": "vault", "response_flags": "UAEX"}
    site.until(lambda: site.samples("istio_tcp_connections_closed_total", **denied), "its end to be counted")
    ended = [site.value(f"istio_tcp_connections_{how}_total", **denied) for how in ("closed", "failed")]
    assert sum(ended) == 1, ended
