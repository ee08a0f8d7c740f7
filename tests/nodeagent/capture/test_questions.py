"""Questions to DNS on a real kernel: to the agent's sockets with whom they were for, and to the pod's own resolvers while there is none."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from meshapi.wire import DNS_PORT, PROXY_MARK
from nodeagent.capture import questions
from nodeagent.capture.base import Capture, CaptureState
from nodeagent.capture.listeners import open_listeners
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.linux import datagrams, nftables
from nodeagent.linux.sockets import listener
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent import conntrack
from tests.nodeagent.capture.ways import only_unredirected
from tests.nodeagent.pods import Pair, Side
from tests.nodeagent.standin import Proxy

TERMS = Terms(dns=True)
RESOLVER = {socket.AF_INET: "10.77.0.200", socket.AF_INET6: "fd77::200"}
"""Nobody has these addresses."""
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@contextmanager
def agent(pod: Side, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Stands for the agent: its sockets for UDP and TCP."""
    with ExitStack() as stack:
        by_udp = stack.enter_context(pod.namespace.run(datagrams.taking, LOOPBACK[family], DNS_PORT, mark=PROXY_MARK))
        by_tcp = stack.enter_context(pod.namespace.run(listener, LOOPBACK[family], DNS_PORT, mark=PROXY_MARK, transparent=True))
        for one in (by_udp, by_tcp):
            one.settimeout(5)
        yield by_udp, by_tcp


@contextmanager
def asker(pod: Side, family: int, server: str, port: int = 53) -> Iterator[socket.socket]:
    """As resolvers in libraries do: connected, so that nobody else's answer counts."""
    with pod.open_socket(family, socket.SOCK_DGRAM) as made:
        made.connect((server, port))
        yield made


@contextmanager
def resolver(side: Side, family: int, address: str) -> Iterator[socket.socket]:
    with side.open_socket(family, socket.SOCK_DGRAM) as made:
        made.bind((address, 53))
        yield made


def _answered(pod: Side, own: socket.socket, family: int, server: str) -> None:
    """By the resolver that was asked."""
    with asker(pod, family, server) as client:
        client.send(b"question")
        body, sender = own.recvfrom(100)
        assert (body, sender[:2]) == (b"question", client.getsockname()[:2])
        own.sendto(b"answer", sender)
        assert client.recv(100) == b"answer"


@pytest.fixture
def pod(capture: Capture, network: Pair) -> Pair:
    capture.apply(network.pod.namespace, terms=TERMS)
    assert capture.inspect(network.pod.namespace, TERMS).state is CaptureState.CAPTURED or capture.name == "ebpf"
    return network


@only_unredirected
def test_by_udp_the_agent_is_asked_and_answers_in_the_resolvers_name(capture: Capture, pod: Pair, family: int) -> None:
    server = RESOLVER[family]
    with agent(pod.pod, family) as (by_udp, _), asker(pod.pod, family, server) as client:
        client.send(b"question")
        asked = datagrams.receive(by_udp, 4096)
        assert asked is not None
        assert asked == (b"question", client.getsockname()[:2], (server, 53))
        with pod.pod.namespace.run(datagrams.answering, server, 53, mark=PROXY_MARK) as answering:
            answering.sendto(b"answer", asked.sender)
            assert client.recv(100) == b"answer"
            # Its socket has not got in the way of the next question.
            client.send(b"another")
            assert (again := datagrams.receive(by_udp, 4096)) is not None
            assert again.body == b"another"
    assert capture.inspect(pod.pod.namespace, TERMS).counters["questions"].packets == 2


@only_unredirected
def test_by_tcp_the_agent_is_asked(capture: Capture, pod: Pair, family: int) -> None:
    server = RESOLVER[family]
    with agent(pod.pod, family) as (_, by_tcp), pod.pod.dial(server, 53) as client:
        made, _ = by_tcp.accept()
        with made:
            assert made.getsockname()[:2] == (server, 53)
            client.sendall(b"question")
            assert made.recv(100) == b"question"
            made.sendall(b"answer")
            assert client.recv(100) == b"answer"
            client.shutdown(socket.SHUT_WR)
            assert made.recv(100) == b""


@only_unredirected
def test_without_the_agent_the_pods_own_resolvers_answer(capture: Capture, pod: Pair, family: int) -> None:
    server = pod.client.addresses[family]
    with resolver(pod.client, family, server) as own:
        with asker(pod.pod, family, server) as client:
            client.send(b"first")
            if family == socket.AF_INET6:  # for IPv4 the kernel refuses nothing in the name of an address that is not its own
                with pytest.raises(ConnectionRefusedError):
                    client.recv(100)
        _answered(pod.pod, own, family, server)
    counters = capture.inspect(pod.pod.namespace, TERMS).counters
    assert (counters["unanswered"].packets, counters["questions-past"].packets) == (1, 1)


@only_unredirected
def test_an_agent_that_ends_says_so_and_no_question_is_lost(capture: Capture, pod: Pair, family: int) -> None:
    server = pod.client.addresses[family]
    with resolver(pod.client, family, server) as own:
        with agent(pod.pod, family):
            pod.pod.namespace.run(nftables.transact, questions.away())
            _answered(pod.pod, own, family, server)
        _answered(pod.pod, own, family, server)
    with agent(pod.pod, family) as (by_udp, _), asker(pod.pod, family, server) as client:
        pod.pod.namespace.run(nftables.transact, questions.present())
        client.send(b"question")
        assert (asked := datagrams.receive(by_udp, 100)) is not None
        assert asked.body == b"question"
    assert capture.inspect(pod.pod.namespace, TERMS).counters["unanswered"].packets == 0


@only_unredirected
def test_without_the_agent_the_proxy_has_tcp(capture: Capture, network: Pair, family: int) -> None:
    listeners = open_listeners(network.pod.namespace)
    server = network.client.addresses[family]
    with Proxy(network.pod, listeners) as proxy:
        capture.apply(network.pod.namespace, listeners, TERMS)
        with network.client.open_socket(family) as own:
            own.bind((server, 53))
            own.listen()
            with network.pod.dial(server, 53):
                assert proxy.seen.get(timeout=5) == (ListenerKind.OUTBOUND, server, 53)


@only_unredirected
def test_what_is_not_captured(capture: Capture, pod: Pair, family: int) -> None:
    """Resolvers on loopback addresses, other ports, and the agent's own questions."""
    with agent(pod.pod, family) as (by_udp, _):
        server = pod.client.addresses[family]
        with resolver(pod.pod, family, LOOPBACK[family]) as own, asker(pod.pod, family, LOOPBACK[family]) as client:
            client.send(b"loopback")
            assert own.recv(100) == b"loopback"
        with pod.client.open_socket(family, socket.SOCK_DGRAM) as other:
            other.bind((server, 5353))
            with asker(pod.pod, family, server, 5353) as client:
                client.send(b"other port")
                assert other.recv(100) == b"other port"
        with resolver(pod.client, family, server) as own, pod.pod.namespace.run(datagrams.dialling, server, 53, mark=PROXY_MARK) as client:
            client.send(b"agent's own")
            assert own.recv(100) == b"agent's own"
        by_udp.settimeout(0)
        with pytest.raises(BlockingIOError):
            by_udp.recv(100)


def _drain(capture: Capture, side: Side) -> None:
    capture.drain(side.namespace, TERMS)


def _opt_out(capture: Capture, side: Side) -> None:
    capture.apply(side.namespace, terms=TOTAL)


@only_unredirected
@pytest.mark.parametrize("change", [_drain, _opt_out])
def test_a_pod_that_leaves_or_opts_out_asks_its_own(
    capture: Capture, pod: Pair, family: int, change: Callable[[Capture, Side], None]
) -> None:
    with agent(pod.pod, family) as (by_udp, _):
        change(capture, pod.pod)
        server = pod.client.addresses[family]
        with resolver(pod.client, family, server) as own, asker(pod.pod, family, server) as client:
            client.send(b"question")
            assert own.recv(100) == b"question"
        by_udp.settimeout(0)
        with pytest.raises(BlockingIOError):
            by_udp.recv(100)


@only_unredirected
def test_questions_leave_nothing_in_connection_tracking(capture: Capture, pod: Pair, family: int) -> None:
    server = RESOLVER[family]
    with agent(pod.pod, family) as (by_udp, _), pod.pod.namespace.run(datagrams.answering, server, 53, mark=PROXY_MARK) as answering:
        for _ in range(5):
            with asker(pod.pod, family, server) as client:
                client.send(b"question")
                asked = datagrams.receive(by_udp, 4096)
                assert asked is not None
                answering.sendto(b"answer", asked.sender)
                assert client.recv(100) == b"answer"
    assert conntrack.count(pod.pod) == 0
