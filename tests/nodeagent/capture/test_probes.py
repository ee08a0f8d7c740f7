"""The kubelet's connections, known by its cgroup: they reach the application itself, exactly those and no others."""

import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.bpf.kubelet import KubeletRecorder
from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Steering
from nodeagent.capture.ebpf import EbpfCapture
from nodeagent.capture.listeners import open_listeners
from nodeagent.linux.cgroups import Cgroup
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent import cgroups
from tests.nodeagent.pods import Pair, Side, family_of
from tests.nodeagent.standin import Application, Proxy

PORT = 8080
PROBE = """
import socket, sys
address, port, source_port, ending = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
made.settimeout(3)
if source_port:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", source_port))
try:
    made.connect((address, port))
except OSError as error:
    print(type(error).__name__)
    sys.exit()
if ending == "reset":
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
made.sendall(b"GET /healthz HTTP/1.1\\r\\n\\r\\n")
print(made.getsockname()[1], made.recv(1000))
made.close()
"""


@dataclass
class Node:
    """A pod, and its node in the client's namespace, with a kubelet in a cgroup."""

    network: Pair
    kubelet: Path
    pins: Path

    @property
    def pod(self) -> Side:
        return self.network.pod

    def probe(self, address: str, port: int = PORT, *, source_port: int = 0, ending: str = "close") -> str:
        """What the kubelet has of a probe: its port and the answer, or the error's name."""
        command = ["python3", "-c", PROBE, address, str(port), str(source_port), ending]
        done = cgroups.run(self.kubelet, *command, namespace=self.network.client.name)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def node(network: Pair, pins: Path) -> Iterator[Node]:
    with cgroups.made() as path, Cgroup.open(path.name) as cgroup:
        KubeletRecorder(pins).attach(cgroup)
        yield Node(network, path, pins)


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    """The pod is captured, and its proxy there."""
    with Proxy(node.pod, listeners := open_listeners(node.pod.namespace)) as made:
        EbpfCapture(Steering(node.pins), Outbound(node.pins)).apply(node.pod.namespace, listeners)
        yield made


def test_a_probe_reaches_the_application_and_another_process_of_the_node_the_proxy(node: Node, proxy: Proxy, family: int) -> None:
    address, client = node.pod.addresses[family], node.network.client
    with node.pod.open_socket(family) as listening:
        listening.bind((address, PORT))
        listening.listen()
        listening.settimeout(10)
        command = ["python3", "-c", PROBE, address, str(PORT), "0", "close"]
        entering = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(node.kubelet), "ip", "netns", "exec", client.name]
        probing = subprocess.Popen([*entering, *command], stdout=subprocess.PIPE, text=True)
        accepted, peer = listening.accept()
        with accepted:
            assert accepted.recv(100).startswith(b"GET /healthz")
            accepted.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        answer = probing.communicate(timeout=10)[0]
        assert "200 OK" in answer
        assert peer[:2] == (client.addresses[family], int(answer.split()[0])), "the source is the kubelet's, its port too"
    assert proxy.seen.empty()
    with Application(node.pod, PORT + 1) as application, client.dial(address, PORT + 1) as made:
        made.sendall(b"x")
        assert made.recv(100)
        assert proxy.seen.get(timeout=3) == (ListenerKind.INBOUND, address, PORT + 1)
        assert application.peers.get(timeout=3) == client.addresses[family]
    counters = EbpfCapture(Steering(node.pins), Outbound(node.pins)).inspect(node.pod.namespace).counters
    assert (counters["probe"].packets, counters["inbound"].packets) == (1, 2), "the rules look for a listener, too"
    assert counters["leak"].packets == counters["leftover"].packets == counters["reset"].packets == 0


def test_a_port_that_is_closed_is_closed_to_the_kubelet(node: Node, proxy: Proxy, family: int) -> None:
    """A proxy that accepted for the application would make every probe of a port succeed."""
    assert node.probe(node.pod.addresses[family], PORT) == "ConnectionRefusedError"
    assert proxy.seen.empty()


@pytest.mark.parametrize("port", [15001, 15006, 15007])
def test_the_meshs_own_ports_are_closed_to_the_kubelet(node: Node, proxy: Proxy, family: int, port: int) -> None:
    assert node.probe(node.pod.addresses[family], port) == "ConnectionRefusedError"
    assert proxy.seen.empty()


def test_who_gets_the_kubelets_port_after_it_is_not_the_kubelet(node: Node, proxy: Proxy, family: int) -> None:
    address, client = node.pod.addresses[family], node.network.client
    with Application(node.pod, PORT) as application:
        assert node.probe(address, source_port=45678, ending="reset").startswith("45678")
        application.peers.get(timeout=3)
        assert proxy.seen.empty()
        with client.open_socket(family) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("", 45678))
            made.connect((address, PORT))
            made.sendall(b"x")
            assert made.recv(100)
        assert proxy.seen.get(timeout=3) == (ListenerKind.INBOUND, address, PORT)


def test_probes_pass_by_cookie_too(node: Node, proxy: Proxy, family: int) -> None:
    """A listener whose queue is full is looked up once more, for the end of the handshake."""
    node.pod.shell("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
    with Application(node.pod, PORT) as application:
        for _ in range(3):
            assert "healthz" in node.probe(node.pod.addresses[family])
            application.peers.get(timeout=3)
    assert proxy.seen.empty()


def test_many_probes_at_once(node: Node, proxy: Proxy, family: int) -> None:
    script = (
        "import socket, sys; all = [socket.create_connection((sys.argv[1], 8080), 10) for _ in range(200)];"
        "[one.sendall(b'x') for one in all]; print(sum(bool(one.recv(100)) for one in all))"
    )
    with Application(node.pod, PORT) as application:
        done = cgroups.run(node.kubelet, "python3", "-c", script, node.pod.addresses[family], namespace=node.network.client.name)
        assert done.stdout.strip() == "200", done.stderr
        assert application.peers.qsize() == 200
    assert proxy.seen.empty()


def test_a_probes_socket_is_no_way_out_for_the_application(node: Node, proxy: Proxy) -> None:
    """It keeps its mark when the application connects it to somewhere else."""
    client, pod = node.network.client, node.pod
    with pod.open_socket(socket.AF_INET) as listening, Application(client, 9090) as application:
        listening.bind(("0.0.0.0", PORT))
        listening.listen()
        entering = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(node.kubelet), "ip", "netns", "exec", client.name]
        probing = subprocess.Popen([*entering, "python3", "-c", PROBE, pod.addresses[socket.AF_INET], str(PORT), "0", "close"])
        accepted, _ = listening.accept()
        with accepted:
            assert ctypes.CDLL(None).connect(accepted.fileno(), bytes(16), 16) == 0
            probing.wait(10)
            accepted.settimeout(3)
            with pytest.raises(ConnectionRefusedError):
                accepted.connect((client.addresses[socket.AF_INET], 9090))
            assert proxy.seen.empty()
            assert application.peers.empty()


ATTACHED = """
import os, signal, sys
from pathlib import Path
from nodeagent.bpf.kubelet import KubeletRecorder
from nodeagent.linux.cgroups import Cgroup
KubeletRecorder(Path(sys.argv[1])).attach(Cgroup.open(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_probes_pass_without_the_agent_and_end_with_the_proxys_listeners(network: Pair, pins: Path, family: int) -> None:
    with cgroups.made() as path:
        done = subprocess.run([sys.executable, "-c", ATTACHED, str(pins), path.name], check=False, timeout=30)
        assert done.returncode == -signal.SIGKILL
        node = Node(network, path, pins)
        with Application(node.pod, PORT) as application:
            with Proxy(node.pod, listeners := open_listeners(node.pod.namespace)):
                EbpfCapture(Steering(pins), Outbound(pins)).apply(node.pod.namespace, listeners)
                assert "healthz" in node.probe(node.pod.addresses[family])
            application.peers.get(timeout=3)
            assert node.probe(node.pod.addresses[family]) in {"ConnectionRefusedError", "TimeoutError"}
            assert application.peers.empty()


def test_a_record_that_was_pushed_out_opens_nothing(node: Node, proxy: Proxy, family: int) -> None:
    """Whatever fills the table: what the kernel does not know as the kubelet's is the proxy's."""
    assert family_of(node.pod.addresses[family]) == family
    with Application(node.pod, PORT), Cgroup.open(node.kubelet.name) as cgroup:
        KubeletRecorder(node.pins).detach(cgroup)
        assert "healthz" in node.probe(node.pod.addresses[family])
        assert proxy.seen.get(timeout=3) == (ListenerKind.INBOUND, node.pod.addresses[family], PORT)
