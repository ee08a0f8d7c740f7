"""Failing open, where the terms have it, and closed where they do not; over each way to capture."""

import socket
from collections.abc import Iterator

import pytest

from meshapi.wire import HBONE_PORT
from nodeagent.capture.base import OPENLY, Capture, CaptureState
from nodeagent.capture.listeners import Listener, open_listeners
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent.capture.test_captured_traffic import ask, packets, talk
from tests.nodeagent.capture.ways import by_either_backend, only_ebpf, only_unredirected
from tests.nodeagent.pods import Pair, refused
from tests.nodeagent.standin import Application, Proxy

PORT = 8080
OPEN = Terms(fail_open=True)


@pytest.fixture
def listeners(network: Pair) -> Iterator[tuple[Listener, ...]]:
    """The agent's descriptors of them: as long as it lives, the proxy's absence closes none."""
    made = open_listeners(network.pod.namespace)
    yield made
    for listener in made:
        listener.socket.close()


def close(listeners: tuple[Listener, ...]) -> None:
    for listener in listeners:
        listener.socket.shutdown(socket.SHUT_RDWR)
        listener.socket.close()


def duplicates(listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
    return tuple(Listener(one.kind, one.socket.dup()) for one in listeners)


@by_either_backend
def test_the_agents_word_opens_both_ways_at_once_and_takes_it_back(
    capture: Capture, network: Pair, listeners: tuple[Listener, ...], family: int
) -> None:
    pod, client = network.pod, network.client
    capture.apply(pod.namespace, listeners, OPEN)
    with Application(pod, PORT), Application(client, PORT):
        capture.open(pod.namespace, OPEN)
        assert capture.inspect(pod.namespace, OPEN).state is CaptureState.OPEN
        with client.dial(pod.addresses[family], PORT) as into, pod.dial(client.addresses[family], PORT) as out:
            assert talk(into, b"open") == f"{client.addresses[family]} open".encode()
            assert talk(out, b"open") == f"{pod.addresses[family]} open".encode()
            assert ask(pod, pod.addresses[family]).endswith(b"hello")
            assert [packets(capture, pod, name) > 0 for name in OPENLY] == [True, True]
            with Proxy(pod, duplicates(listeners)) as proxy:
                capture.apply(pod.namespace, listeners, OPEN)
                assert capture.inspect(pod.namespace, OPEN).state is CaptureState.CAPTURED
                assert ask(client, pod.addresses[family]).endswith(b"hello")
                assert ask(pod, client.addresses[family]).endswith(b"hello")
                assert sorted(kind for kind, *_ in proxy.seen.queue) == [ListenerKind.INBOUND, ListenerKind.OUTBOUND]
                for made in (into, out):
                    assert talk(made, b"still").endswith(b"still"), "what is open stays"


def test_without_leave_it_stays_closed_whatever_the_agent_says(capture: Capture, network: Pair, family: int) -> None:
    pod, client = network.pod, network.client
    capture.apply(pod.namespace)
    capture.open(pod.namespace, TOTAL)
    with Application(pod, PORT) as inside, Application(client, PORT) as outside:
        assert refused(lambda: client.dial(pod.addresses[family], PORT, timeout_s=0.6))
        assert refused(lambda: pod.dial(client.addresses[family], PORT, timeout_s=0.6))
        assert inside.peers.empty()
        assert outside.peers.empty()


@only_unredirected
def test_what_comes_in_needs_nobodys_word(capture: Capture, network: Pair, listeners: tuple[Listener, ...], family: int) -> None:
    """Agent and proxy are gone, and their listeners with them."""
    pod, client = network.pod, network.client
    capture.apply(pod.namespace, listeners, OPEN)
    close(listeners)
    with Application(pod, PORT):
        assert ask(client, pod.addresses[family]) == f"{client.addresses[family]} hello".encode()
    assert packets(capture, pod, "open") > 0


@only_ebpf
def test_by_ebpf_what_goes_out_does_not_either(capture: Capture, network: Pair, listeners: tuple[Listener, ...], family: int) -> None:
    """The first handshake is repeated after a second, the next ones go at once; later connections by the same socket's mark, too."""
    pod, client = network.pod, network.client
    capture.apply(pod.namespace, listeners, OPEN)
    close(listeners)
    with Application(client, PORT):
        for _ in range(3):
            assert ask(pod, client.addresses[family]) == f"{pod.addresses[family]} hello".encode()
    assert packets(capture, pod, "unheard") == 1
    assert packets(capture, pod, "open-out") == 3


def test_hbone_is_never_open(capture: Capture, network: Pair, listeners: tuple[Listener, ...], family: int) -> None:
    pod, client = network.pod, network.client
    capture.apply(pod.namespace, listeners, OPEN)
    close(listeners)
    capture.open(pod.namespace, OPEN)
    with Application(pod, HBONE_PORT) as application:
        assert refused(lambda: client.dial(pod.addresses[family], HBONE_PORT, timeout_s=0.6))
        assert application.peers.empty()
