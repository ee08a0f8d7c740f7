"""What only the eBPF capture promises: no conntrack, and taking over from, and giving over to, the other way without a gap."""

import socket
import threading
from pathlib import Path

from meshapi.wire import HBONE_PORT
from nodeagent.bpf.steering import Steering
from nodeagent.capture.base import Capture, CaptureState
from nodeagent.capture.listeners import open_listeners
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent.capture.ways import only_ebpf
from tests.nodeagent.pods import Pair, Side, refused
from tests.nodeagent.standin import Application, Proxy

PORT = 8080


def tracked(pod: Side) -> list[str]:
    """Conntrack's entries for TCP."""
    return [line for line in pod.namespace.run(Path("/proc/thread-self/net/nf_conntrack").read_text).splitlines() if " tcp " in line]


def test_no_captured_connection_has_a_conntrack_entry(capture: Capture, network: Pair, family: int) -> None:
    """The other captures are the control."""
    pod, client = network.pod, network.client
    with Proxy(pod, listeners := open_listeners(pod.namespace)) as proxy, Application(pod, PORT), Application(client, PORT):
        capture.apply(pod.namespace, listeners)
        for made in (
            client.dial(pod.addresses[family], PORT),
            pod.dial(client.addresses[family], PORT),
            pod.dial(pod.addresses[family], PORT),
            client.dial(pod.addresses[family], HBONE_PORT),
        ):
            with made:
                made.sendall(b"x")
                assert made.recv(100)
                assert bool(tracked(pod)) == (capture.name != "ebpf")
        assert proxy.seen.qsize() == 4


@only_ebpf
def test_the_application_sees_whom_it_called(capture: Capture, network: Pair, family: int) -> None:
    pod, client = network.pod, network.client
    with Proxy(pod, listeners := open_listeners(pod.namespace)), Application(client, PORT):
        capture.apply(pod.namespace, listeners)
        with pod.dial(client.addresses[family], PORT) as made:
            assert made.getpeername()[:2] == (client.addresses[family], PORT)
            assert made.getsockname()[0] == pod.addresses[family]


@only_ebpf
def test_a_handover_of_the_sockets_loses_no_connection(capture: Capture, network: Pair) -> None:
    """One proxy ends and another begins, under a stream of new connections; the listening sockets are the same throughout."""
    pod, client = network.pod, network.client
    listeners = open_listeners(pod.namespace)
    capture.apply(pod.namespace, listeners)
    [inbound] = [one.socket for one in listeners if one.kind is ListenerKind.INBOUND and one.socket.family == socket.AF_INET]
    inbound.settimeout(5)
    accepted: list[int] = []

    def serve(number: int) -> None:
        with inbound.dup() as own:
            own.settimeout(5)
            for _ in range(100):
                own.accept()[0].close()
                accepted.append(number)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        client.dial(pod.addresses[socket.AF_INET], PORT).close()
    for thread in threads:
        thread.join(10)
    assert len(accepted) == 300
    for listener in listeners:
        listener.socket.close()


@only_ebpf
def test_without_the_steering_program_the_rules_close(capture: Capture, network: Pair, pins: Path, family: int) -> None:
    """Whatever takes it off, a bpffs that is unmounted say: nothing comes in past the proxy."""
    pod, client = network.pod, network.client
    with Proxy(pod, listeners := open_listeners(pod.namespace)), Application(pod, PORT) as application:
        capture.apply(pod.namespace, listeners)
        Steering(pins).detach(pod.namespace)
        assert refused(lambda: client.dial(pod.addresses[family], PORT, timeout_s=0.6))
        assert application.peers.empty()
        assert capture.inspect(pod.namespace).counters["reset"].packets > 0


@only_ebpf
def test_what_is_missing_of_the_steering_program_is_told_and_mended(capture: Capture, network: Pair, pins: Path) -> None:
    pod = network.pod
    with Proxy(pod, listeners := open_listeners(pod.namespace)):
        capture.apply(pod.namespace, listeners)
        Steering(pins).detach(pod.namespace)
        assert "not attached" in capture.inspect(pod.namespace).problem
        capture.apply(pod.namespace, listeners)
        assert capture.inspect(pod.namespace).state is CaptureState.CAPTURED
        NftablesCapture().remove(pod.namespace)
        assert "rules are not in force" in capture.inspect(pod.namespace).problem
        capture.apply(pod.namespace, listeners)
        assert capture.inspect(pod.namespace).state is CaptureState.CAPTURED
