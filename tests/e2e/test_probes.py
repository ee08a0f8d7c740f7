"""The kubelet's probes in STRICT: its own connections and no others; and the weaker way, where they can't be told."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo import manifests
from demo.topology import Pod
from tests.e2e.mesh import ECHO, HTTP, Mesh
from tests.nodeagent import cgroups

NODE = "n1"
STRICT = manifests.peer_authentication("strict", "STRICT", namespace="default")
DENY = manifests.authorization_policy("closed", "DENY", app="api", ports=[str(HTTP)])
PROBE = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
try:
    with socket.create_connection((address, port), timeout=3) as made:
        made.sendall(b"GET /healthz HTTP/1.1\\r\\nhost: pod\\r\\n\\r\\n")
        answer = b""
        while b"}" not in answer and b"healthz" not in answer and (part := made.recv(4096)):
            answer += part
        print(answer.decode())
except OSError as error:
    print(type(error).__name__)
"""


class Kubelet:
    """Stands for it: a cgroup, whose processes run in the node's own namespace."""

    def __init__(self, mesh: Mesh, path: Path) -> None:
        self.path = path
        self._namespace = mesh.topology.hosts[NODE].namespace

    def probe(self, address: object, port: int = HTTP) -> str:
        done = cgroups.run(self.path, "python3", "-c", PROBE, str(address), str(port), namespace=self._namespace)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def eventually(self, mesh: Mesh, address: object) -> None:
        mesh.wait(lambda: "200 OK" in self.probe(address), f"probes of {address} to pass", timeout_s=20)


def restart(mesh: Mesh, *options: str) -> None:
    mesh.cluster.agents[NODE].stop()
    mesh.cluster.start_agent(NODE, *options, join=False)
    mesh.wait(mesh.settled, "the node to serve again", timeout_s=20)


@pytest.fixture(scope="module")
def kubelet(mesh: Mesh) -> Iterator[Kubelet]:
    with cgroups.made() as path:
        restart(mesh, f"--kubelet-cgroup=/{path.name}")
        it = Kubelet(mesh, path)
        it.eventually(mesh, mesh.pods["api-1"].ipv4)
        yield it


@contextmanager
def strict(mesh: Mesh, pod: Pod, *more: manifests.Manifest) -> Iterator[None]:
    """For the length of the block only who has an identity, or is the kubelet, comes in."""
    with mesh.applied("strict", STRICT, *more):
        mesh.wait(lambda: not mesh.call(mesh.outside, pod.ipv4).ok, "STRICT to be in force")
        yield
    mesh.wait(lambda: mesh.call(mesh.outside, pod.ipv4).ok, "STRICT to be gone")


def test_probes_pass_and_no_other_process_of_the_node(mesh: Mesh, kubelet: Kubelet) -> None:
    pod, node = mesh.pods["api-1"], mesh.topology.hosts[NODE]
    with strict(mesh, pod, DENY):
        for address, source in ((pod.ipv4, str(node.bridge_ipv4)), (pod.ipv6, "")):
            answer = kubelet.probe(address)
            assert "200 OK" in answer, "neither STRICT nor a denial of its port is for the kubelet"
            assert source in answer, "the application sees the kubelet's own address"
            assert "healthz" in kubelet.probe(address, ECHO)
            assert kubelet.probe(address, 1) == "ConnectionRefusedError", "what is closed is closed to the kubelet"
            assert not mesh.call(node.namespace, address).ok
            assert not mesh.call(mesh.outside, address).ok
        explained = mesh.cluster.nodeagent(NODE, "explain", "kubelet", f"default/api-1:{HTTP}")
        assert kubelet.path.name in explained
        assert "ALLOWED" in explained
    assert kubelet.path.name in mesh.cluster.nodeagent(NODE, "status")


def test_probes_go_on_without_the_agent(mesh: Mesh, kubelet: Kubelet) -> None:
    pod = mesh.pods["api-1"]
    with strict(mesh, pod):
        mesh.cluster.agents[NODE].stop(signal_number=signal.SIGKILL)
        for _ in range(5):
            assert "200 OK" in kubelet.probe(pod.ipv4)
            assert not mesh.call(mesh.topology.hosts[NODE].namespace, pod.ipv4).ok
        mesh.cluster.start_agent(NODE, f"--kubelet-cgroup=/{kubelet.path.name}", join=False)
        assert "200 OK" in kubelet.probe(pod.ipv4)
        mesh.wait(mesh.settled, "the node to serve again", timeout_s=20)


def test_a_kubelet_that_is_started_again_probes_again(mesh: Mesh, kubelet: Kubelet) -> None:
    pod = mesh.pods["api-1"]
    with strict(mesh, pod):
        cgroups.remove(kubelet.path)
        kubelet.path.mkdir()
        begin = time.monotonic()
        kubelet.eventually(mesh, pod.ipv4)
        print(f"probes passed again after {time.monotonic() - begin:.1f} s")


@pytest.mark.parametrize("capture", ["ebpf", "nftables"])
def test_where_they_cannot_be_told_the_nodes_plaintext_passes_to_declared_ports(mesh: Mesh, kubelet: Kubelet, capture: str) -> None:
    pod, node = mesh.pods["api-1"], mesh.topology.hosts[NODE]
    restart(mesh, f"--capture={capture}", "--kubelet-cgroup=none", "--probes-from-node")
    mesh.cluster.list_pod(pod, service_account="api", probe_ports=[HTTP])
    try:
        with strict(mesh, pod):
            for address in (pod.ipv4, pod.ipv6):
                mesh.wait(lambda address=address: mesh.call(node.namespace, address).ok, "a probe of the node to pass")  # type: ignore[misc]
            assert mesh.call(node.namespace, pod.ipv4).client == str(node.bridge_ipv4)
            with pytest.raises(OSError, match=r"reset|refused|closed|timed out"):
                mesh.hold(node.namespace, pod.ipv4, ECHO)  # no port for probes
            assert not mesh.call(mesh.outside, pod.ipv4).ok
            assert not mesh.call(node.namespace, mesh.pods["shop"].ipv4).ok, "it declares no port"
            assert "any process of the node" in mesh.cluster.nodeagent(NODE, "status")
            assert "declared for probes" in mesh.cluster.nodeagent(NODE, "explain", "kubelet", f"default/api-1:{HTTP}")
            log = mesh.cluster.nodeagent(NODE, "logs")
            assert 'probe="node"' in log
    finally:
        mesh.cluster.list_pod(pod, service_account="api")
        restart(mesh, f"--kubelet-cgroup=/{kubelet.path.name}")
