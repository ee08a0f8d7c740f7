"""A probe that comes to the listener that stands for probes: carried without a verdict and in no series, also without the agent.

That is where one ends if something beside the rules of the mesh looks for its listener, too.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.bpf.kubelet import KubeletRecorder
from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Reason, Steering
from nodeagent.capture.ebpf import EbpfCapture
from nodeagent.capture.listeners import Listener
from nodeagent.linux.cgroups import Cgroup
from nodeagent.ztunnel.protocol import AskVerdict, Via
from tests.nodeagent import bpffs, cgroups
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Mesh, echo, server
from tests.nodeagent.ztunnel.proxy.stub import Judgement, until

ANOTHERS = """table inet another {
	chain looks { type filter hook prerouting priority -100; meta l4proto tcp socket mark 0x1 counter; }
}
"""
# Marked as the proxy's own, so that the capture of the client lets it go.
PROBE = """
import socket, sys
made = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)
made.settimeout(5)
try:
    made.connect((sys.argv[1], int(sys.argv[2])))
    made.sendall(b"healthz")
    print(made.recv(100) or "closed")
except OSError as error:
    print(type(error).__name__)
"""


@dataclass
class Scene:
    mesh: Mesh
    probe: Callable[[str, int], str]
    told: Callable[[], int]


@pytest.fixture
def scene(both: Mesh, tmp_path: Path) -> Iterator[Scene]:
    """The server is captured by eBPF; no verdict would allow anything."""
    node = both.server
    node.script.verdict = lambda _: Judgement(allow=False)
    [(workload, descriptors)] = node.script.workloads
    with ExitStack() as stack:
        root = stack.enter_context(bpffs.mounted(tmp_path)) / "nodemesh"
        path = stack.enter_context(cgroups.made())
        KubeletRecorder(root).attach(stack.enter_context(Cgroup.open(path.name)))
        sockets = [stack.enter_context(socket.socket(fileno=os.dup(fd))) for fd in descriptors[1:]]
        steering = Steering(root)
        capture = EbpfCapture(steering, Outbound(root))
        capture.apply(node.side.namespace, [Listener(*one) for one in zip(workload.listeners, sockets, strict=True)])
        node.side.shell("nft", "-f", "-", stdin=ANOTHERS)

        def probe(address: str, port: int) -> str:
            return cgroups.run(path, "python3", "-c", PROBE, address, str(port), namespace=both.client.side.name).stdout.strip()

        def told() -> int:
            found = steering.inspect(node.side.namespace)
            return found.lookups[Reason.PROBE_TOLD] if found else 0

        yield Scene(both, probe, told)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_probe_is_carried_without_a_verdict_and_in_no_series(scene: Scene, family: int) -> None:
    node, address = scene.mesh.server, scene.mesh.server.side.addresses[family]
    with server(node.side, echo, family=family) as seen:
        assert scene.probe(address, BACKEND_PORT) == "b'healthz'"
        node.agent.stop()
        assert scene.probe(address, BACKEND_PORT) == "b'healthz'"
        assert seen == [scene.mesh.client.side.addresses[family]] * 2
    assert scene.told() == 4, "twice for each: the rules of the mesh, and TCP"
    former = node.agent
    node.start_agent()
    until(lambda: len(former.closed) + len(node.agent.closed) == 2)
    for agent in (former, node.agent):
        assert not agent.questions(AskVerdict)
        assert {(entry.via, entry.flag) for entry in agent.closed} <= {(Via.PROBE, None)}
        assert not [row for row in agent.rows if row.opened or row.closed or row.sent_bytes or row.received_bytes]


@pytest.mark.parametrize("port", [15020, 15053])
def test_a_probe_reaches_no_port_of_the_mesh(scene: Scene, port: int) -> None:
    assert scene.probe(scene.mesh.server.address, port) == "ConnectionResetError"
    until(lambda: bool(scene.mesh.server.agent.closed))
    assert "a port of the mesh itself" in (scene.mesh.server.agent.closed[0].error or "")
