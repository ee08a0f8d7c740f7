"""Hosts outside of the mesh through a waypoint that the controller drives, and a root that is replaced under what is open there."""

import json
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from demo import manifests, waypoint
from demo.manifests import Manifest
from demo.topology import Pod
from demo.waypoint import Waypoint
from tests.e2e.mesh import ECHO, HTTP, Call, Mesh, echoes

VIPS = (VIP := "10.96.0.61", "fd96::61")
HOST = "elsewhere.example"


@pytest.fixture(scope="module")
def gate(mesh: Mesh) -> Iterator[Waypoint]:
    with waypoint.running(mesh.cluster) as made:
        yield made


@pytest.fixture(scope="module")
def outside(mesh: Mesh) -> Iterator[Pod]:
    """An application on a host that is no part of the mesh."""
    host = mesh.topology.hosts["outside"]
    there = Pod("elsewhere", "outside", host.namespace, IPv4Address(host.ipv4), IPv6Address(host.ipv6))
    app = mesh.cluster.start_app(there)
    try:
        yield there
    finally:
        app.stop(signal_number=9)


def entry(*, port: int = 80, target: int = HTTP, protocol: str = "HTTP", **spec: Any) -> Manifest:
    """A ServiceEntry that is bound to the waypoint."""
    ports = [{"number": port, "name": protocol.lower(), "protocol": protocol, "targetPort": target}]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "elsewhere", "namespace": "default", "labels": {"istio.io/use-waypoint": "gate"}},
        "spec": {"hosts": [HOST], "ports": ports, "resolution": "STATIC", **spec},
    }


def through(mesh: Mesh, gate: Waypoint, host: object, port: int, pod: str) -> bool:
    """Whether this one answers, and sees the waypoint as its client."""
    call: Call = mesh.call(mesh.pods["shop"], host, port)
    return call.pod == pod and call.client in {str(gate.pod.ipv4), str(gate.pod.ipv6)}


def rule(percent: int = 100) -> Manifest:
    """A part of the requests to the host is answered at the waypoint: proof that its requests are understood there."""
    abort = {"abort": {"httpStatus": 418, "percentage": {"value": percent}}}
    routes = [{"fault": abort, "route": [{"destination": {"host": HOST}}]}]
    meta = {"name": "elsewhere", "namespace": "default"}
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": {"hosts": [HOST], "http": routes}}


def test_endpoints_that_are_stated_outside_and_inside(mesh: Mesh, gate: Waypoint, outside: Pod) -> None:
    inside = {"workloadSelector": {"labels": {"app": "api"}}, "location": "MESH_INTERNAL", "addresses": [VIP]}
    with mesh.applied("entry", entry(endpoints=[{"address": str(outside.ipv4)}], location="MESH_EXTERNAL", addresses=[VIP])):
        mesh.wait(lambda: through(mesh, gate, VIP, 80, "elsewhere"), "the host outside to be called through the waypoint", timeout_s=20)
        with mesh.applied("rule", rule()):
            mesh.wait(lambda: not mesh.call(mesh.pods["shop"], VIP, 80).ok, "rules to hold for it", timeout_s=20)
    with mesh.applied("entry", entry(**inside)):
        mesh.wait(lambda: through(mesh, gate, VIP, 80, "api-2"), "pods to be called through the waypoint by the host's name", timeout_s=20)
        assert {mesh.call(mesh.pods["shop"], VIP, 80).pod for _ in range(20)} == {"api-1", "api-2", "api-3"}


def test_the_address_that_was_dialled_is_passed_on(mesh: Mesh, gate: Waypoint, outside: Pod) -> None:
    """Resolution NONE, and the balancer PASSTHROUGH, which says the same: an address of the range is the endpoint, and no other."""
    passing = {"host": HOST, "trafficPolicy": {"loadBalancer": {"simple": "PASSTHROUGH"}}}
    meta = {"name": "elsewhere", "namespace": "default"}
    balanced = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta, "spec": passing}
    unresolved = entry(port=HTTP, resolution="NONE", location="MESH_EXTERNAL", addresses=[str(outside.ipv4)])
    for documents in ([unresolved], [unresolved, balanced]):
        with mesh.applied("entry", *documents):
            mesh.wait(lambda: through(mesh, gate, outside.ipv4, HTTP, "elsewhere"), "calls to go through the waypoint", timeout_s=20)
        mesh.wait(lambda: mesh.call(mesh.pods["shop"], outside.ipv4, HTTP).client == str(mesh.pods["shop"].ipv4), "the direct way")


def test_an_address_that_was_handed_out(mesh: Mesh, gate: Waypoint, outside: Pod) -> None:
    with mesh.applied("entry", entry(endpoints=[{"address": str(outside.ipv4)}], location="MESH_EXTERNAL")):
        vips = handed_out(mesh)
        assert [vip.startswith(("240.240.", "2001:2:")) for vip in vips] == [True, True]
        for vip in vips:
            mesh.wait(lambda vip=vip: through(mesh, gate, vip, 80, "elsewhere"), f"calls to {vip} to go through the waypoint", timeout_s=20)


def handed_out(mesh: Mesh) -> list[str]:
    """The addresses of the host, as the controller has them."""
    mesh.wait(lambda: mesh.cluster.meshctl_ok("describe", HOST), "the host to be known")
    (found,) = json.loads(mesh.cluster.meshctl("describe", HOST, "-o", "json"))
    return [str(one) for one in found["addresses"]]


def test_each_client_has_an_endpoint_by_its_address(mesh: Mesh, gate: Waypoint) -> None:
    """Eight addresses: that all of them fall to one of three endpoints by chance is as good as impossible."""
    ports = {"ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "tcp-http", "port": 81, "targetPort": "http"}]}
    front = manifests.service("front", app="api", vips=VIPS, spec=ports)
    front["metadata"]["labels"] = {"istio.io/use-waypoint": "gate"}
    hashed = {"host": "front", "trafficPolicy": {"loadBalancer": {"consistentHash": {"useSourceIp": True}}}}
    meta = {"name": "front", "namespace": "default"}
    rule = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta, "spec": hashed}

    def chosen(port: int) -> list[set[str | None]]:
        return [{mesh.call(pod, vip, port).pod for _ in range(4)} for pod in mesh.pods.values() for vip in VIPS]

    with mesh.applied("front", front, rule):
        for port in (80, 81):
            mesh.wait(lambda port=port: all(len(one) == 1 for one in chosen(port)), "each client to have one endpoint", timeout_s=20)
            assert len({name for one in chosen(port) for name in one}) > 1, port


def test_roots_rotate_under_what_is_open(mesh: Mesh, gate: Waypoint) -> None:
    """The waypoint takes the new root while it is trusted beside the old one, then a certificate below it; nothing that is open ends."""
    shop = mesh.pods["shop"]
    ports = {"ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "tcp-echo", "port": ECHO}]}
    front = manifests.service("front", app="api", vips=(VIP,), spec=ports)
    front["metadata"]["labels"] = {"istio.io/use-waypoint": "gate"}
    with mesh.applied("front", front):
        mesh.wait(lambda: through(mesh, gate, VIP, 80, "api-2"), "calls to go through the waypoint", timeout_s=20)
        mesh.wait(lambda: echoing(mesh, shop), "connections to go through it, too", timeout_s=20)
        held, before = mesh.hold(shop, VIP, ECHO), issuers(gate)
        with mesh.stream(shop, VIP, port=80) as stream:
            mesh.cluster.meshctl("root", "rotate")
            mesh.wait(lambda: len(roots(gate)) == 2, "Envoy to trust both", timeout_s=30)
            mesh.wait(
                lambda: "not all agents" not in mesh.cluster.meshctl("root", "rotate", "--status"), "all agents to know it", timeout_s=30
            )
            mesh.cluster.meshctl("root", "rotate", "--force")
            mesh.wait(lambda: issuers(gate) != before, "Envoy to have a certificate below the new one", timeout_s=30)
            mesh.wait(mesh.settled, "the agents to be there", timeout_s=30)
        assert echoes(held)
        assert len(stream.calls) > 20
        assert not stream.failed


def echoing(mesh: Mesh, source: Pod) -> bool:
    with suppress(OSError), mesh.dial(source, VIP, ECHO) as connection:
        return echoes(connection)
    return False


def roots(gate: Waypoint) -> set[str]:
    """The serial numbers of the roots that Envoy trusts."""
    found = json.loads(gate.admin("/certs"))["certificates"]
    return {one["serial_number"] for entry in found for one in entry["ca_cert"]}


def issuers(gate: Waypoint) -> set[str]:
    """The serial numbers of Envoy's own certificate and what is above it."""
    found = json.loads(gate.admin("/certs"))["certificates"]
    return {one["serial_number"] for entry in found for one in entry["cert_chain"]}
