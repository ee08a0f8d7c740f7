"""Connection tracking that is full: a capture that needs it sheds, without letting anything past, and comes back; eBPF needs none."""

import socket
from collections.abc import Iterator

import pytest

from nodeagent.capture.base import Capture
from nodeagent.capture.listeners import open_listeners
from tests.nodeagent import conntrack
from tests.nodeagent.pods import Pair, Side, refused
from tests.nodeagent.standin import Application, Proxy

PORT = 8080
PATIENCE_S = 0.7
"""Less than the kernel waits before it sends a handshake again."""


def ask(side: Side, address: str, timeout_s: float = 3.0) -> bytes:
    with side.dial(address, PORT, timeout_s) as made:
        made.sendall(b"hello")
        return made.recv(100)


@pytest.fixture
def proxy(capture: Capture, network: Pair) -> Iterator[Proxy]:
    listeners = open_listeners(network.pod.namespace)
    with Proxy(network.pod, listeners) as made:
        capture.apply(network.pod.namespace, listeners)
        yield made


def test_new_connections_are_shed_or_carried_and_never_go_past(capture: Capture, network: Pair, proxy: Proxy) -> None:
    pod, client = network.pod, network.client
    here, there = pod.addresses[socket.AF_INET], client.addresses[socket.AF_INET]
    with Application(pod, PORT) as inside, Application(client, PORT) as outside, client.dial(here, PORT) as open_before:
        open_before.sendall(b"before")
        assert open_before.recv(100)
        inside.peers.get(timeout=3)
        proxy.seen.get(timeout=3)
        with conntrack.full(pod):
            if capture.name == "ebpf":
                assert ask(pod, there)
                assert ask(client, here)
                assert [proxy.seen.get(timeout=3)[1] for _ in range(2)] == [there, here]
            else:
                assert refused(lambda: ask(pod, there, PATIENCE_S))
                assert refused(lambda: ask(client, here, PATIENCE_S))
                assert outside.peers.empty(), "nothing left the pod"
                assert inside.peers.empty(), "nothing reached the application"
            open_before.sendall(b"still")
            assert open_before.recv(100)
        assert ask(pod, there)
        assert ask(client, here)


def test_capture_by_ebpf_leaves_no_entry(capture: Capture, network: Pair, proxy: Proxy) -> None:
    pod, client = network.pod, network.client
    with Application(pod, PORT), Application(client, PORT):
        for family in (socket.AF_INET, socket.AF_INET6):
            assert ask(pod, client.addresses[family])
            assert ask(client, pod.addresses[family])
        assert (conntrack.count(pod) == 0) == (capture.name == "ebpf")
