"""Limits at a waypoint of the whole mesh, counted by a server that is a workload of it like any other."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import manifests, waypoint
from demo.manifests import Manifest
from demo.shell import Process
from demo.topology import Pod
from demo.waypoint import Waypoint
from tests.e2e.mesh import Mesh, principal

VIP, LIMITS_VIP = "10.96.0.30", "10.96.0.31"
PORT = 8081
REQUESTS = 3


def let_ask(name: str, account: str) -> Manifest:
    rule = {"from": [{"source": {"principals": [principal(account)]}}]}
    spec = {"selector": {"matchLabels": {"app": "limits"}}, "rules": [rule]}
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": meta, "spec": spec}


class Limits:
    """The server in a pod of its own, which takes connections from the waypoint alone."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.pod = mesh.topology.add_pod("n2", "limits")
        self._log = mesh.cluster.directory / "limits.log"
        self._process: Process | None = None

    def objects(self) -> list[Manifest]:
        return [
            manifests.service_account("limits"),
            manifests.pod(self.pod, service_account="limits", app="limits"),
            manifests.service("limits", app="limits", vips=(LIMITS_VIP,), spec={"ports": [{"name": "grpc", "port": PORT}]}),
            let_ask("limits", "gate"),
        ]

    def start(self) -> None:
        self._log.unlink(missing_ok=True)
        command = [str(Path(sys.executable).with_name("meshctl")), "ratelimit", "serve", f"--listen=0.0.0.0:{PORT}"]
        self._process = Process("limits", command, self._log, self.pod.namespace).start()
        self.mesh.wait(lambda: "answers at" in self._log.read_text(), "the server to answer", timeout_s=30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


@pytest.fixture(scope="module")
def gate(mesh: Mesh) -> Iterator[Waypoint]:
    with waypoint.running(mesh.cluster) as made:
        yield made


@pytest.fixture(scope="module")
def limits(mesh: Mesh, gate: Waypoint) -> Iterator[Limits]:
    made = Limits(mesh)
    front = manifests.service("front", app="api", vips=(VIP,), spec={"ports": [{"name": "http", "port": 80, "targetPort": "http"}]})
    front["metadata"]["labels"] = {"istio.io/use-waypoint": "gate"}
    text = f"rateLimitService: {{service: limits.default.svc.cluster.local, port: {PORT}, timeout: 5s}}"
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"nodemesh": text},
    }
    mesh.cluster.apply("limits", [*made.objects(), front, config])
    try:
        made.start()
        mesh.cluster.enrol(made.pod, service_account="limits")
        mesh.wait(lambda: asked(mesh, mesh.pods["shop"]) == 200, "calls to go through the waypoint", timeout_s=20)
        yield made
    finally:
        made.stop()


def limit(**spec: object) -> Manifest:
    rule = {"limit": {"requests": REQUESTS, "per": "day"}, "by": ["source.principal", "source.namespace", "remote.ip"]}
    meta = {"name": "front", "namespace": "default"}
    stated = {"targetRefs": [{"kind": "Service", "name": "front"}], "scope": "global", "rules": [rule], **spec}
    return {"apiVersion": "nodemesh.io/v1alpha1", "kind": "RateLimit", "metadata": meta, "spec": stated}


def asked(mesh: Mesh, source: Pod, method: str = "GET", headers: str = "") -> int:
    """The status of a request; 0 if there is no answer."""
    try:
        with mesh.dial(source, VIP, 80) as connection:
            connection.sendall(f"{method} / HTTP/1.1\r\nhost: front\r\ncontent-length: 0\r\n{headers}\r\n".encode())
            with connection.makefile("rb") as answer:
                return int((answer.readline().split() or [b"", b"0"])[1])
    except OSError:
        return 0


def used_up(mesh: Mesh, source: Pod) -> int:
    """How many requests are let through."""
    for count in range(REQUESTS + 3):
        if asked(mesh, source) == 429:
            return count
    raise AssertionError("there is no limit")


def test_each_client_has_its_own_limit_and_can_not_be_another(mesh: Mesh, gate: Waypoint, limits: Limits) -> None:
    shop, api = mesh.pods["shop"], mesh.pods["api-1"]
    with mesh.applied("limit", limit()):
        mesh.wait(lambda: asked(mesh, mesh.pods["api-2"]) == 429, "the limit to hold", timeout_s=20)
        assert used_up(mesh, shop) == REQUESTS
        assert used_up(mesh, api) == REQUESTS
        assert asked(mesh, shop, headers="x-forwarded-for: 192.0.2.1\r\nx-forwarded-client-cert: URI=spiffe://a/ns/b/sa/c\r\n") == 429

        results = {one["result"] for one in gate.metric("nodemesh_rate_limit_requests_total") if one["rate_limit"] == "default/front"}
        assert {"passed", "refused"} <= results


def greeted(mesh: Mesh, source: Pod | str, limits: Limits) -> bool:
    """Whether the server says something to who connects, as HTTP/2 has it."""
    try:
        with mesh.dial(source, limits.pod.ipv4, PORT) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            return bool(connection.recv(1))
    except OSError:
        return False


def test_nobody_but_the_waypoint_may_ask_the_server(mesh: Mesh, limits: Limits) -> None:
    shop = mesh.pods["shop"]
    assert not greeted(mesh, shop, limits)
    assert not greeted(mesh, mesh.outside, limits)
    with mesh.policies(let_ask("shop-too", "shop")):
        mesh.wait(lambda: greeted(mesh, shop, limits), "the shop to be let in")
        assert not greeted(mesh, mesh.outside, limits)


def test_without_the_server_requests_are_refused_until_it_is_back(mesh: Mesh, limits: Limits) -> None:
    shop = mesh.pods["shop"]
    with mesh.applied("limit", limit(rules=[{"limit": {"requests": 100_000, "per": "day"}}])):
        limits.stop()
        mesh.wait(lambda: asked(mesh, shop) == 503, "requests to be refused", timeout_s=20)
        limits.start()
        mesh.wait(lambda: asked(mesh, shop) == 200, "requests to be counted again", timeout_s=20)
