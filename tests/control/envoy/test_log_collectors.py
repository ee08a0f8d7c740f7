"""control/envoy/access_logs.py: real requests and connections through a real Envoy, and what collectors of logs are told of them."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest

from control.envoy.built import CLUSTER, LISTENER
from demo.cluster import eventually
from tests.control.envoy.collectors import Collector, by_grpc
from tests.control.envoy.echo import upstream
from tests.control.envoy.real_envoy import RealEnvoy, as_json, running
from tests.control.envoy.test_access_logs import config
from tests.control.envoy.test_tracing import collector
from tests.control.envoy.test_waypoint import Served, pod, service
from tests.control.waypoint.test_reports import PAGE, cluster, listener

MESH = """
extensionProviders:
- name: otel
  envoyOtelAls:
    service: logs.shop.svc.cluster.local
    port: 4317
    logFormat: {text: 'asked %REQ(:PATH)%', labels: {code: '%RESPONSE_CODE%', by: '%FILTER_STATE(io.istio.peer_principal:PLAIN)%'}}
- {name: http, envoyHttpAls: {service: logs.shop.svc.cluster.local, port: 4317, logName: ours, additionalRequestHeadersToLog: [x-kept]}}
- {name: tcp, envoyTcpAls: {service: logs.shop.svc.cluster.local, port: 4317}}
"""
CHOSEN = """
    kind: Telemetry
    apiVersion: telemetry.istio.io/v1
    metadata: {name: all, namespace: shop}
    spec:
      accessLogging:
      - {providers: [{name: otel}], filter: {expression: "!request.url_path.startsWith('/left')"}}
      - {providers: [{name: http}, {name: tcp}]}
"""
PORTS = "[{name: http, port: 80, targetPort: 8080}, {name: tcp-db, port: 82, targetPort: 8080}]"
WAIT_S = 30.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealEnvoy, Collector]]:
    served = Served()
    served.write("mesh.yaml", config(MESH), CHOSEN)
    served.write("logs.yaml", collector("logs", "[{name: grpc-logs, port: 4317, targetPort: 8080}]", "10.0.1.1"))
    served.write("cart.yaml", service("cart", "10.96.0.1", PORTS), pod("cart-1", "cart", "10.0.0.1", mesh="none"))
    with ExitStack() as stack:
        server, logs = stack.enter_context(upstream("server")), stack.enter_context(by_grpc())
        ports = {"10.0.0.1": server.port, "10.0.1.1": logs.port}
        chains = served.of(LISTENER)["main_internal"].filter_chains
        clusters = [cluster(served, one, ports) for name, one in served.of(CLUSTER).items() if "vip" in name]
        envoy = running(
            tmp_path_factory.mktemp("logs"),
            [as_json(listener(served, one)) for one in chains],
            [as_json(one) for one in clusters],
            node={"id": "waypoint", "cluster": "waypoint.shop"},
        )
        yield stack.enter_context(envoy), logs


def ask(envoy: RealEnvoy, path: str) -> None:
    connection = HTTPConnection("127.0.0.1", envoy.ports["http-cart"], timeout=WAIT_S)
    connection.request("GET", path, headers={"host": "cart", "x-kept": "kept", "x-other": "other"})
    assert connection.getresponse().status == 200
    connection.close()


def test_a_request_by_otlp_and_by_envoys_service(site: tuple[RealEnvoy, Collector]) -> None:
    envoy, logs = site
    for path in ("/left/out", "/told"):
        ask(envoy, path)
    eventually(lambda: logs.records, "a record", timeout_s=WAIT_S)
    assert logs.records == [("asked /told", {"code": "200", "by": PAGE})]
    found = eventually(lambda: [one for one in logs.entries if one[1].request.path == "/told"], "an entry", timeout_s=WAIT_S)
    ((name, entry),) = found
    assert name == "ours"
    assert (entry.response.response_code.value, dict(entry.request.request_headers)) == (200, {"x-kept": "kept"})


def test_a_connection(site: tuple[RealEnvoy, Collector]) -> None:
    envoy, logs = site
    with socket.create_connection(("127.0.0.1", envoy.ports["tcp-cart"]), timeout=WAIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.recv(1)

    def told() -> list[str]:
        return [name for name, one in logs.entries if one.DESCRIPTOR.name == "TCPAccessLogEntry"]

    assert eventually(told, "an entry", timeout_s=WAIT_S) == ["listener_envoy_accesslog"], "one line of a connection, when it ends"
