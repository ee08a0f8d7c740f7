"""control/envoy/limits: limits that the rate limit server counts for all, through two real Envoys and the real server."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from control.envoy.built import CLUSTER
from demo.cluster import eventually
from tests.control.envoy.echo import Upstream, upstream
from tests.control.envoy.limits.test_local import hourly, limit, statistics
from tests.control.envoy.patches.envoy_filters import envoy_filter, inserted, patch
from tests.control.envoy.routed import Routed, echo_pods, echo_service, routed
from tests.control.envoy.test_waypoint import Served, pod, service
from tests.control.envoy.validation import validate

MESHCTL = Path(sys.executable).with_name("meshctl")
ADDRESSES = {"v1": "10.0.0.1"}
SERVER = "10.0.0.9"
CONFIG = """
    kind: ConfigMap
    apiVersion: v1
    metadata: {name: istio, namespace: istio-system}
    data:
      nodemesh: |
        rateLimitService: {service: limits.shop.svc.cluster.local, port: 8081, timeout: 10s}
"""
GRPC = "[{name: grpc, port: 8081}]"
GLOBAL = "scope: global, "
LIMITS = {
    "all": limit("all", hourly(5), f"{GLOBAL}headers: true, "),
    "users": limit("users", hourly(2, ", by: ['request.headers[x-user]', source.principal, source.namespace, remote.ip]"), GLOBAL),
    "pay": limit("pay", hourly(1, ", to: [{operation: {paths: ['/pay/{*}']}}]"), f"{GLOBAL}status: 503, "),
    "closed": limit("closed", hourly(100), GLOBAL),
    "open": limit("open", hourly(100), f"{GLOBAL}onFailure: allow, "),
}


CLUSTER_OF_ISTIO = "outbound|8081||limits.shop.svc.cluster.local"
ASKS = {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "domain": "productpage-ratelimit",
    "failure_mode_deny": True,
    "timeout": "10s",
    "rate_limit_service": {
        "grpc_service": {"envoy_grpc": {"cluster_name": CLUSTER_OF_ISTIO, "authority": "limits.shop.svc.cluster.local"}},
        "transport_api_version": "V3",
    },
}
BY_PATH = {"rate_limits": [{"actions": [{"request_headers": {"header_name": ":path", "descriptor_key": "PATH"}}]}]}
FILES = {
    "productpage.yaml": """
domain: productpage-ratelimit
descriptors:
  - key: PATH
    value: "/productpage"
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: PATH
    rate_limit: {unit: day, requests_per_unit: 3}
"""
}


class Server:
    """The server as an operator runs it."""

    def __init__(self, directory: Path) -> None:
        self._log, files = directory / "limits.log", directory / "files"
        files.mkdir()
        for name, text in FILES.items():
            (files / name).write_text(text)
        command = [MESHCTL, "ratelimit", "serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", f"--config={files}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([str(part) for part in command], stderr=log)
        found = eventually(lambda: re.search(r"answers at .* \(port (\d+)\)", self._log.read_text()), "the server answers", timeout_s=30)
        self.port = int(found.group(1))

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(20)


@contextmanager
def counting(directory: Path) -> Iterator[Server]:
    found = Server(directory)
    try:
        yield found
    finally:
        found.stop()


class Shop:
    def __init__(self, server: Server, envoys: list[Routed]) -> None:
        self.server = server
        self.envoys = envoys

    def statuses(self, name: str, times: int, path: str = "/", **headers: str) -> list[int]:
        """Asked of both Envoys in turn."""
        return [self.envoys[turn % 2].ask(name, path, **headers).status for turn in range(times)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with ExitStack() as stack:
        server = stack.enter_context(counting(tmp_path_factory.mktemp("server")))
        upstreams = {address: stack.enter_context(upstream(name)) for name, address in ADDRESSES.items()}
        served = Served()
        served.write("base2.yaml", echo_pods(ADDRESSES), *(echo_service(name, n) for n, name in enumerate(("productpage", *LIMITS))))
        served.write("server.yaml", CONFIG, service("limits", "10.96.0.200", GRPC, label="none"), pod("l", "limits", SERVER, mesh="none"))
        served.write("limits.yaml", *LIMITS.values())
        actions = patch("VIRTUAL_HOST", "MERGE", BY_PATH, context="WAYPOINT")
        asks = inserted({"name": "envoy.filters.http.ratelimit", "typed_config": ASKS})
        served.write("istio.yaml", envoy_filter("filter-ratelimit", asks, actions, services=("productpage",)))
        known = {**upstreams, SERVER: Upstream("limits", server.port)}
        envoys = [stack.enter_context(routed(tmp_path_factory.mktemp("limits"), served, known)) for _ in range(2)]
        yield Shop(server, envoys)


def test_envoys_count_together(shop: Shop) -> None:
    assert shop.statuses("all", 7) == [200] * 5 + [429] * 2
    answer = shop.envoys[0].ask("all")
    assert answer.headers["x-ratelimit-limit"].startswith("5, 5;w=3600")
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert 0 < int(answer.headers["retry-after"]) <= 3600


def test_each_value_is_counted_apart(shop: Shop) -> None:
    for user in ("ann", "bob"):
        assert shop.statuses("users", 3, x_user=user) == [200, 200, 429]
    assert shop.statuses("users", 3) == [200, 200, 429]


def test_no_bytes_of_a_header_are_a_way_around(shop: Shop) -> None:
    def asked(value: bytes) -> list[int]:
        found = []
        for turn in range(3):
            with socket.create_connection(("127.0.0.1", shop.envoys[turn % 2].envoy.ports["users"]), timeout=20) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: users\r\nconnection: close\r\nx-user: " + value + b"\r\n\r\n")
                with connection.makefile("rb") as answer:
                    found.append(int(answer.readline().split()[1]))
        return found

    assert asked(b"\xff\xfe\x80") == [200, 200, 429]
    assert asked(b"x" * 9000) == [200, 200, 429]
    # Long values are one, whatever they are.
    assert asked(b"y" * 9000) == [429, 429, 429]


def test_requests_that_no_rule_matches_are_not_counted(shop: Shop) -> None:
    assert shop.statuses("pay", 4) == [200] * 4
    assert shop.statuses("pay", 2, "/pay/x") == [200, 503]
    assert shop.statuses("pay", 2, "//pay/y") == [503, 503]


def test_the_example_of_istios_documents_holds(shop: Shop) -> None:
    """Its filter, its actions, its file, and the name that it has for the server's cluster."""
    assert shop.statuses("productpage", 3, "/productpage") == [200, 429, 429]
    assert shop.statuses("productpage", 4, "/other") == [200, 200, 200, 429]
    assert shop.statuses("productpage", 1, "/another") == [200]


def test_the_servers_cluster_is_served_with_the_limits(tmp_path: Path) -> None:
    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"), limit("cart", hourly(1), GLOBAL))
    cluster = "inbound-vip|8081|http|limits.shop.svc.cluster.local"
    assert cluster not in served.of(CLUSTER)
    assert [one.what.split(":")[0] for one in served.view.problems] == ["nobody counts for all"]
    served.write("b.yaml", CONFIG, service("limits", "10.96.0.200", GRPC, label="none"), pod("l", "limits", SERVER))
    assert cluster in served.of(CLUSTER)
    assert list(served.view.problems) == []
    validate(tmp_path, served.view)
    # A port that does not say gRPC would be asked by HTTP/1.1.
    served.write("b.yaml", CONFIG, service("limits", "10.96.0.200", "[{port: 8081}]", label="none"))
    assert [one.what for one in served.view.problems] == [
        "nobody counts for all: no service limits.shop.svc.cluster.local of the mesh has a port 8081 for gRPC"
    ]


def test_when_the_server_goes_each_limit_says_what_that_means(shop: Shop) -> None:
    """The last one here: it ends the server."""
    assert shop.statuses("closed", 2) == [200, 200]
    assert shop.server.stop() == 0
    assert shop.statuses("closed", 4) == [503] * 4
    assert shop.statuses("open", 4) == [200] * 4
    allowed = [statistics(one, "ratelimit.rate_limit.shop.open.failure_mode_allowed") for one in shop.envoys]
    assert sum(allowed) == 4
