"""What a workload's terms leave alone goes past the proxy, both ways, and nothing else does; on a real kernel, over each way to capture."""

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from nodeagent.capture.base import Capture, CaptureState
from nodeagent.capture.listeners import Listener, open_listeners
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent.capture.test_captured_traffic import ask, everything, packets, talk
from tests.nodeagent.capture.ways import InCgroup, by_either_backend
from tests.nodeagent.pods import Pair, Side, refused
from tests.nodeagent.standin import Application, Proxy

PORT, OTHER = 8080, 8081


class Captured:
    """A pod that is captured, with a stand-in for the proxy; its terms can be changed."""

    def __init__(self, capture: Capture, network: Pair, proxy: Proxy, listeners: tuple[Listener, ...]) -> None:
        self.capture, self.pod, self.client, self.proxy = capture, network.pod, network.client, proxy
        self._listeners = listeners

    def on(self, terms: Terms) -> None:
        self.capture.apply(self.pod.namespace, self._listeners, terms)
        assert self.capture.inspect(self.pod.namespace, terms).state is CaptureState.CAPTURED

    def refused(self) -> int:
        """What ended in one of the rules that stand behind the others."""
        return sum(packets(self.capture, self.pod, rule) for rule in ("leak", "leftover", "reset"))

    def seen(self) -> list[tuple[ListenerKind, int]]:
        """What the proxy got since this was asked last."""
        found = []
        while not self.proxy.seen.empty():
            kind, _, port = self.proxy.seen.get()
            found.append((kind, port))
        return found


@pytest.fixture
def captured(capture: Capture, network: Pair) -> Iterator[Captured]:
    listeners = open_listeners(network.pod.namespace)
    with Proxy(network.pod, listeners) as proxy:
        yield Captured(capture, network, proxy, listeners)


def network_of(side: Side, family: int) -> str:
    return str(ipaddress.ip_network(f"{side.addresses[family]}/{24 if family == socket.AF_INET else 64}", strict=False))


OUT = ListenerKind.OUTBOUND
OUTBOUND: dict[str, tuple[Callable[[str], Terms], list[tuple[ListenerKind, int]]]] = {
    "a port": (lambda _: Terms(exclude_outbound_ports=(PORT,)), [(OUT, OTHER)]),
    "a range": (lambda there: Terms(exclude_outbound_ranges=(there,)), []),
    "another range": (lambda _: Terms(exclude_outbound_ranges=("198.51.100.0/24", "2001:db8::/32")), [(OUT, PORT), (OUT, OTHER)]),
    "all but a range": (lambda there: Terms(include_outbound_ranges=(there,)), [(OUT, PORT), (OUT, OTHER)]),
    "all but another range": (lambda _: Terms(include_outbound_ranges=("198.51.100.0/24", "2001:db8::/32")), []),
    "all but a port": (lambda _: Terms(include_outbound_ranges=(), include_outbound_ports=(OTHER,)), [(OUT, OTHER)]),
}


@by_either_backend
def test_outbound(captured: Captured, family: int) -> None:
    pod, client = captured.pod, captured.client
    with Application(client, PORT), Application(client, OTHER):
        for name, (make, expected) in OUTBOUND.items():
            captured.on(make(network_of(client, family)))
            for port in (PORT, OTHER):
                assert ask(pod, client.addresses[family], port) == f"{pod.addresses[family]} hello".encode(), name
            assert captured.seen() == expected, name
            assert captured.refused() == 0, name


def test_outbound_to_the_pods_own_address(captured: Captured, family: int) -> None:
    pod = captured.pod
    captured.on(Terms(exclude_outbound_ports=(PORT,)))
    with Application(pod, PORT), Application(pod, OTHER):
        for port in (PORT, OTHER):
            assert ask(pod, pod.addresses[family], port).endswith(b"hello")
    assert captured.seen() == [(OUT, OTHER)]


@by_either_backend
def test_inbound(captured: Captured, family: int) -> None:
    pod, client = captured.pod, captured.client
    with Application(pod, PORT) as application, Application(pod, OTHER):
        for terms in (Terms(exclude_inbound_ports=(PORT,)), Terms(include_inbound_ports=(OTHER,))):
            captured.on(terms)
            for cookies in (1, 2):
                pod.shell("sysctl", "-qw", f"net.ipv4.tcp_syncookies={cookies}")
                for port in (PORT, OTHER):
                    assert ask(client, pod.addresses[family], port) == f"{client.addresses[family]} hello".encode()
                assert application.peers.get(timeout=3) == client.addresses[family]
                assert captured.seen() == [(ListenerKind.INBOUND, OTHER)]
            assert packets(captured.capture, pod, "past") > 0
            assert captured.refused() == 0


def test_a_closed_port_that_is_left_alone_refuses_at_once(captured: Captured, family: int) -> None:
    captured.on(Terms(exclude_inbound_ports=(PORT,)))
    begin = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        captured.client.dial(captured.pod.addresses[family], PORT)
    assert time.monotonic() - begin < 2


@by_either_backend
def test_they_need_no_proxy_and_nothing_else_passes(captured: Captured, family: int) -> None:
    pod, client = captured.pod, captured.client
    captured.on(Terms(exclude_inbound_ports=(PORT,), exclude_outbound_ports=(PORT,)))
    captured.proxy.close()
    with Application(pod, PORT), Application(client, PORT), Application(pod, OTHER) as inside, Application(client, OTHER) as outside:
        assert ask(client, pod.addresses[family], PORT).endswith(b"hello")
        assert ask(pod, client.addresses[family], PORT).endswith(b"hello")
        assert refused(lambda: client.dial(pod.addresses[family], OTHER, timeout_s=0.6))
        assert refused(lambda: pod.dial(client.addresses[family], OTHER, timeout_s=0.6))
        assert inside.peers.empty()
        assert outside.peers.empty()


def test_a_peer_that_dials_from_such_a_port_or_address_is_captured(captured: Captured, family: int) -> None:
    """Outbound terms say nothing of who comes in."""
    pod, client = captured.pod, captured.client
    captured.on(Terms(exclude_outbound_ports=(PORT,), exclude_outbound_ranges=(network_of(client, family),)))
    pod.shell("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
    with Application(pod, OTHER) as application, client.open_socket(family) as made:
        ask(client, pod.addresses[family], OTHER)  # from now on the application's listener would take cookies
        made.bind((client.addresses[family], PORT))
        made.connect((pod.addresses[family], OTHER))
        talk(made, b"hello")
        assert application.peers.qsize() == 2
    assert captured.seen() == [(ListenerKind.INBOUND, OTHER)] * 2


def test_a_pod_that_dials_from_such_a_port_is_captured(captured: Captured, family: int) -> None:
    """Inbound terms say nothing of what goes out."""
    pod, client = captured.pod, captured.client
    captured.on(Terms(exclude_inbound_ports=(PORT,)))
    with Application(client, OTHER), pod.open_socket(family) as made:
        made.bind((pod.addresses[family], PORT))
        made.connect((client.addresses[family], OTHER))
        assert talk(made, b"hello") == f"{pod.addresses[family]} hello".encode()
    assert captured.seen() == [(OUT, OTHER)]
    assert packets(captured.capture, pod, "leak") == 0


def test_other_terms_take_effect_on_a_live_pod(captured: Captured, family: int) -> None:
    """What they no longer leave alone ends with its next packet; what was captured stays with the proxy.

    But by eBPF, where nothing but its destination tells of a connection that goes out, it ends when that is left alone; and where its
    cgroup's programs have marked it, it stays past the proxy.
    """
    pod, client = captured.pod, captured.client
    some = Terms(exclude_inbound_ports=(PORT,), exclude_outbound_ports=(PORT,))
    captured.on(TOTAL)
    with Application(pod, PORT), Application(client, PORT):
        with client.dial(pod.addresses[family], PORT) as into, pod.dial(client.addresses[family], PORT) as out:
            for made in (into, out):
                talk(made, b"before")
            captured.on(some)
            for made in (into, out) if captured.capture.name != "ebpf" or isinstance(captured.capture, InCgroup) else (into,):
                talk(made, b"after")
            assert sorted(captured.seen()) == [(ListenerKind.INBOUND, PORT), (OUT, PORT)]
        with client.dial(pod.addresses[family], PORT) as into, pod.dial(client.addresses[family], PORT) as out:
            for made in (into, out):
                talk(made, b"before")
            assert captured.seen() == []
            captured.on(Terms(exclude_inbound_ports=(PORT, OTHER), exclude_outbound_ports=(PORT, OTHER)))
            for made in (into, out):
                talk(made, b"still left alone")
            captured.on(TOTAL)
            for made in (into, out) if not isinstance(captured.capture, InCgroup) else (into,):
                with pytest.raises(OSError):  # noqa: PT011 - reset, or refused by silence
                    pytest.fail(f"{talk(made, b'late')!r}")


def test_draining_keeps_them(captured: Captured, family: int) -> None:
    pod, client = captured.pod, captured.client
    terms = Terms(exclude_inbound_ports=(PORT,), exclude_outbound_ports=(PORT,))
    captured.on(terms)
    with (
        Application(pod, PORT),
        Application(client, PORT),
        client.dial(pod.addresses[family], PORT) as into,
        pod.dial(client.addresses[family], PORT) as out,
    ):
        for made in (into, out):
            talk(made, b"before")
        captured.capture.drain(pod.namespace, terms)
        assert captured.capture.inspect(pod.namespace, terms).state is CaptureState.DRAINING
        for made in (into, out):
            talk(made, b"after")


def test_terms_are_part_of_what_is_inspected_and_go_with_it(capture: Capture, network: Pair) -> None:
    pod, some = network.pod, Terms(exclude_inbound_ports=(PORT,), exclude_outbound_ranges=("10.0.0.0/8", "fd00::/8"), fail_open=True)
    before = everything(pod)
    with Proxy(pod, listeners := open_listeners(pod.namespace)):
        for terms, others in ((some, TOTAL), (TOTAL, some)):
            capture.apply(pod.namespace, listeners, terms)
            assert capture.inspect(pod.namespace, terms).state is CaptureState.CAPTURED
            assert capture.inspect(pod.namespace, others).state is CaptureState.BROKEN
        capture.apply(pod.namespace, listeners, some)
    capture.remove(pod.namespace)
    assert everything(pod) == before
