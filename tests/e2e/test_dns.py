"""Names, as applications resolve them: by their C library, in the pod's own network, with a resolver that knows nothing of the mesh."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import manifests
from demo.cluster import API_VIPS
from demo.manifests import Manifest
from demo.shell import run
from demo.topology import Pod
from nodeagent.linux.namespaces import Namespace
from tests.e2e import mesh as meshes
from tests.e2e.mesh import HTTP, NODES, Mesh
from tests.e2e.test_reports import samples
from tests.e2e.test_restarts import only_tunnels, start_agent, stop_controller
from tests.nodeagent.dns.resolver import Resolver, addresses, ask, resolver

OPT_OUT = "ambient.istio.io/dns-capture"
SEARCH = "default.svc.cluster.local svc.cluster.local cluster.local"
WWW = "192.0.2.80"
_RESOLVE = """
import json, socket, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = sorted({one[4][0] for one in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        found[name] = error.strerror
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=["ebpf", "nftables", "iptables"])
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    with meshes.running(request.param) as made:
        assert made.admin("n1", "/status")["capture"] == request.param
        yield made


@pytest.fixture
def upstream(mesh: Mesh) -> Iterator[Resolver]:
    """On a host outside of the mesh."""
    with Namespace.open(f"/run/netns/{mesh.outside}") as outside, resolver(outside, str(server(mesh))) as made:
        made.answers["www.example.", "A"] = (WWW,)
        yield made


def server(mesh: Mesh) -> str:
    return str(mesh.topology.hosts["outside"].ipv4)


def resolved(mesh: Mesh, pod: Pod, *names: str, tmp_path: Path) -> dict[str, Any]:
    """What getaddrinfo says in a pod, by name: addresses, or the error's text."""
    file = tmp_path / "resolv.conf"
    file.write_text(f"nameserver {server(mesh)}\nsearch {SEARCH}\noptions ndots:5 timeout:2 attempts:3\n")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    # In mounts of its own: the machine's file stays as it is.
    command = ["unshare", "--mount", "sh", "-c", script, str(file), sys.executable, "-c", _RESOLVE, *names]
    said = run(command, namespace=pod.namespace, timeout_s=60)
    found: dict[str, Any] = json.loads(said)
    return found


def answer(mesh: Mesh, pod: Pod, name: str, kind: str = "A", *, timeout_s: float = 2.0) -> list[str]:
    """The addresses that the pod's resolver says; nothing if it says none."""
    with Namespace.open(pod.netns_path) as namespace:
        try:
            return addresses(ask(namespace, server(mesh), name, kind, timeout_s=timeout_s))
        except OSError:
            return []


def entry(name: str, host: str, *, namespace: str = "default", **spec: Any) -> Manifest:
    """A ServiceEntry whose endpoints are the pods of `api`."""
    ports = [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": HTTP}]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"hosts": [host], "ports": ports, "resolution": "STATIC", "workloadSelector": {"labels": {"app": "api"}}, **spec},
    }


def test_services_by_every_form_of_their_name_and_others_by_the_resolver(mesh: Mesh, upstream: Resolver, tmp_path: Path) -> None:
    shop = mesh.pods["shop"]
    forms = ["api", "api.default", "api.default.svc", "api.default.svc.cluster.local"]
    found = resolved(mesh, shop, *forms, "www.example", "nobody.default.svc.cluster.local", tmp_path=tmp_path)
    assert {name: found[name] for name in forms} == dict.fromkeys(forms, sorted(API_VIPS))
    assert found["www.example"] == [WWW]
    assert isinstance(found["nobody.default.svc.cluster.local"], str)
    assert not [name for name in upstream.asked() if name.startswith("api.")], "the mesh's names are nobody else's business"
    with mesh.wiretap("by-name") as tap:
        for vip in API_VIPS:
            mesh.wait(lambda vip=vip: mesh.call(shop, vip, 80).pod in {"api-2", "api-3"}, f"a pod of the other node to answer at {vip}")
    only_tunnels(tap)
    labels = {"source_workload": "shop", "source_workload_namespace": "default", "answered_by": "mesh"}
    assert any(one.name == "istio_dns_requests_total" and labels.items() <= one.labels.items() for one in samples(mesh, "n1"))


def test_a_host_without_addresses_gets_one_that_leads_to_its_endpoints(mesh: Mesh, upstream: Resolver) -> None:
    shop = mesh.pods["shop"]
    with mesh.applied("entry", entry("legacy", "db.corp.example"), entry("wild", "*.wild.example", addresses=["10.200.0.1"])):
        mesh.wait(lambda: answer(mesh, shop, "db.corp.example"), "the name to be known")
        [vip] = answer(mesh, shop, "db.corp.example")
        assert vip.startswith("240.240.")
        [vip6] = answer(mesh, shop, "db.corp.example", "AAAA")
        assert vip6.startswith("2001:2:")
        for address in (vip, vip6):
            mesh.wait(lambda address=address: mesh.call(shop, address, 80).ok, "calls by the address to get there")
        assert answer(mesh, shop, "any.wild.example") == ["10.200.0.1"]
    mesh.wait(lambda: not answer(mesh, shop, "db.corp.example"), "the name to be gone")


def test_a_private_name_is_answered_in_its_namespace_only(mesh: Mesh, upstream: Resolver) -> None:
    shop = mesh.pods["shop"]
    upstream.answers["private.example.", "A"] = ("192.0.2.7",)
    other = manifests.namespace("other", enrolled=False)
    private = entry("private", "private.example", namespace="other", exportTo=["."], addresses=["10.200.0.2"])
    public = entry("public", "public.example", namespace="other", addresses=["10.200.0.3"])
    with mesh.applied("entry", other, private, public):
        mesh.wait(lambda: answer(mesh, shop, "public.example") == ["10.200.0.3"], "the names to be known")
        assert answer(mesh, shop, "private.example") == ["192.0.2.7"]


def test_endpoints_of_a_headless_service(mesh: Mesh, upstream: Resolver) -> None:
    shop = mesh.pods["shop"]
    pods = {name: pod for name, pod in mesh.pods.items() if name.startswith("api")}
    with mesh.applied("headless", manifests.service("peers", app="api", vips=())):
        everybody = sorted(str(pod.ipv4) for pod in pods.values())
        mesh.wait(lambda: answer(mesh, shop, "peers.default.svc.cluster.local") == everybody, "all endpoints")
        for name, pod in pods.items():
            assert answer(mesh, shop, f"{name}.peers.default.svc.cluster.local", "AAAA") == [str(pod.ipv6)]


def test_without_the_resolver_and_the_controller_the_meshs_names_are_answered(mesh: Mesh) -> None:
    """Also what nobody has asked for before, and by agents that have started meanwhile."""
    pods = mesh.pods["shop"], mesh.pods["api-2"]
    later, other = (manifests.service(name, app="api", vips=(vip,)) for name, vip in (("later", "10.96.0.77"), ("other", "10.96.0.78")))
    with mesh.applied("later", later, other):
        mesh.wait(lambda: all(mesh.admin(node, "/status")["dns"].endswith(" 3 names of the mesh") for node in NODES), "the names to come")
        stop_controller(mesh)
        try:
            for pod in pods:
                assert answer(mesh, pod, "later.default.svc.cluster.local") == ["10.96.0.77"]
            mesh.cluster.agents["n1"].stop()
            start_agent(mesh, "n1")
            mesh.wait(lambda: answer(mesh, pods[0], "later.default.svc.cluster.local") == ["10.96.0.77"], "an answer from what was kept")
        finally:
            mesh.cluster.start_controller()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_without_the_agent_pods_ask_their_own_resolvers(mesh: Mesh, upstream: Resolver, number: signal.Signals, tmp_path: Path) -> None:
    shop = mesh.pods["shop"]
    upstream.answers["api.default.svc.cluster.local.", "A"] = ("192.0.2.9",)
    assert answer(mesh, shop, "api.default.svc.cluster.local") == [API_VIPS[0]]
    mesh.cluster.agents["n1"].stop(signal_number=number)
    try:
        if number is signal.SIGTERM:
            assert answer(mesh, shop, "www.example") == [WWW], "an agent that ends says so, and no question is lost"
        found = resolved(mesh, shop, "www.example", "api", tmp_path=tmp_path)
        assert found == {"www.example": [WWW], "api": ["192.0.2.9"]}, "at most asked again, by the library itself"
    finally:
        start_agent(mesh, "n1")
    mesh.wait(lambda: answer(mesh, shop, "api.default.svc.cluster.local") == [API_VIPS[0]], "the agent to answer again")


def test_a_pod_that_wants_to_ask_its_own_resolvers_does(mesh: Mesh, upstream: Resolver) -> None:
    shop = mesh.pods["shop"]
    upstream.answers["api.default.svc.cluster.local.", "A"] = ("192.0.2.9",)
    mesh.cluster.list_pod(shop, service_account="shop", annotations={OPT_OUT: "false"})
    mesh.wait(lambda: answer(mesh, shop, "api.default.svc.cluster.local") == ["192.0.2.9"], "its questions to go past the agent")
    mesh.cluster.list_pod(shop, service_account="shop")
    mesh.wait(lambda: answer(mesh, shop, "api.default.svc.cluster.local") == [API_VIPS[0]], "them to come back")
