"""Connections of a known cgroup are marked before their first packet: to the proxy, or past it, and nothing else about them changes."""

import ctypes
import errno
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from nodeagent.bpf.outbound import Outbound, add_outside, outside, remove_outside
from nodeagent.bpf.steering import Steering
from nodeagent.capture.base import Capture, CaptureState
from nodeagent.capture.ebpf import EbpfCapture
from nodeagent.capture.listeners import Listener, open_listeners
from nodeagent.capture.terms import Terms
from nodeagent.linux.cgroups import root
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent import cgroups, conntrack
from tests.nodeagent.bpf.objects import eventually, eventually_gone, ids
from tests.nodeagent.capture import ways
from tests.nodeagent.pods import Pair, Side, refused
from tests.nodeagent.standin import SO_MARK, Application, Proxy

PORT = 8080


@pytest.fixture
def capture(pins: Path) -> Iterator[Capture]:
    with ways.made("ebpf-cgroup", pins) as made:
        yield made


@pytest.fixture
def listeners(network: Pair) -> tuple[Listener, ...]:
    return open_listeners(network.pod.namespace)


@pytest.fixture
def proxy(capture: Capture, network: Pair, listeners: tuple[Listener, ...]) -> Iterator[Proxy]:
    with Proxy(network.pod, listeners) as made:
        capture.apply(network.pod.namespace, listeners)
        yield made


@pytest.fixture
def application(network: Pair) -> Iterator[Application]:
    with Application(network.client, PORT) as made:
        yield made


def counted(capture: Capture, pod: Side, *names: str) -> tuple[int, ...]:
    counters = capture.inspect(pod.namespace).counters
    return tuple(counters[name].packets for name in names)


def talk(made: socket.socket) -> bytes:
    """What comes back; raises OSError also where the other side ends in order: it may have, ahead of what it was sent."""
    made.settimeout(5)
    made.sendall(b"hello")
    if not (answer := made.recv(100)):
        raise ConnectionAbortedError("nothing came back")
    return answer


def test_they_are_marked_with_addresses_as_they_were_and_no_state_in_the_kernel(
    capture: Capture, network: Pair, proxy: Proxy, application: Application, family: int
) -> None:
    pod, there = network.pod, network.client.addresses[family]
    with pod.dial(there, PORT) as made:
        assert talk(made)
        assert made.getpeername()[:2] == (there, PORT)
        assert made.getsockname()[0] == pod.addresses[family]
        assert application.peers.get(timeout=3) == pod.addresses[family]
        assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
        assert conntrack.count(pod) == 0
    assert counted(capture, pod, "marked", "outbound", "leak", "leftover", "reset") == (1, 0, 0, 0, 0)


def test_ipv4_through_an_ipv6_socket(capture: Capture, network: Pair, proxy: Proxy, application: Application) -> None:
    pod, there = network.pod, network.client.addresses[socket.AF_INET]
    with pod.open_socket(socket.AF_INET6) as made:
        made.connect((f"::ffff:{there}", PORT))
        assert talk(made)
        assert made.getsockname()[0] == f"::ffff:{pod.addresses[socket.AF_INET]}"
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
    assert counted(capture, pod, "marked", "outbound") == (1, 0)


def test_a_socket_that_is_bound_keeps_its_address_and_port(network: Pair, proxy: Proxy, application: Application, family: int) -> None:
    pod, there = network.pod, network.client.addresses[family]
    for bound in ((pod.addresses[family], 40001), (pod.addresses[family], 0), ("::" if family == socket.AF_INET6 else "0.0.0.0", 40002)):
        with pod.open_socket(family) as made:
            made.bind(bound)
            made.connect((there, PORT))
            assert talk(made)
            assert made.getsockname()[0] == pod.addresses[family]
            assert bound[1] in {0, made.getsockname()[1]}
            assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)


def test_one_that_does_not_block(network: Pair, proxy: Proxy, application: Application, family: int) -> None:
    pod, there = network.pod, network.client.addresses[family]
    with pod.open_socket(family) as made:
        made.settimeout(0)
        assert made.connect_ex((there, PORT)) == errno.EINPROGRESS
        assert select.select([], [made], [], 5)[1]
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert talk(made)
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)


def test_data_with_the_handshake(capture: Capture, network: Pair, proxy: Proxy, application: Application, family: int) -> None:
    pod, there = network.pod, network.client.addresses[family]
    with pod.open_socket(family) as made:
        made.settimeout(None)
        made.sendto(b"early", socket.MSG_FASTOPEN, (there, PORT))
        made.settimeout(5)
        assert made.recv(100).endswith(b"early")
        assert made.getsockname()[0] == pod.addresses[family]
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
    assert counted(capture, pod, "marked", "outbound") == (1, 0)


def test_a_socket_that_dials_again_is_judged_again(capture: Capture, network: Pair, proxy: Proxy, pins: Path, family: int) -> None:
    """After a refusal, and after it was disconnected: a mark that stayed would take the destination for the source, or go past."""
    pod, there = network.pod, network.client.addresses[family]
    add(pins, pod, there, PORT + 1)
    with pod.open_socket(family) as made:
        made.settimeout(None)
        assert refused(lambda: made.connect((there, PORT)) or talk(made))
        disconnect(made)
        made.settimeout(None)
        assert refused(lambda: made.connect((there, PORT + 1)))
        with Application(network.client, PORT):
            made.connect((there, PORT))
            assert talk(made)
            assert made.getsockname()[0] == pod.addresses[family]
    assert [one for one in proxy.seen.queue if one[1:] != (there, PORT)] == []
    assert proxy.seen.qsize() == 2
    assert counted(capture, pod, "outside", "leak", "leftover", "reset") == (1, 0, 0, 0)


def disconnect(made: socket.socket) -> None:
    """connect(2) to AF_UNSPEC, which Python does not say."""
    assert ctypes.CDLL(None).connect(made.fileno(), b"\0" * 16, 16) == 0


def test_somebody_s_own_mark_stays_and_the_rules_capture(capture: Capture, network: Pair, proxy: Proxy, application: Application) -> None:
    pod, there = network.pod, network.client.addresses[socket.AF_INET]
    with pod.open_socket(socket.AF_INET) as made:
        made.setsockopt(socket.SOL_SOCKET, SO_MARK, 0x7000)
        made.connect((there, PORT))
        assert talk(made)
        assert made.getsockopt(socket.SOL_SOCKET, SO_MARK) == 0x7000
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
    assert counted(capture, pod, "marked", "outbound") == (0, 1)


def test_a_process_in_no_cgroup_of_ours_is_captured_by_the_rules(
    capture: Capture, network: Pair, proxy: Proxy, application: Application, family: int
) -> None:
    pod, there = network.pod, network.client.addresses[family]
    dial = f"import socket; made = socket.create_connection(('{there}', {PORT}), 5); made.sendall(b'x'); print(made.recv(100))"
    with cgroups.made() as other:
        done = cgroups.run(other, sys.executable, "-c", dial, namespace=pod.name)
    assert done.returncode == 0, done.stderr
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
    assert counted(capture, pod, "marked", "outbound") == (0, 1)


# ---- past the proxy


def add(pins: Path, pod: Side, address: str, port: int) -> None:
    table = Outbound(pins).outside_of(pod.namespace.id)
    assert table is not None
    with table:
        add_outside(table, ip_address(address), port)
        assert (ip_address(address), port) in outside(table)


def remove(pins: Path, pod: Side, address: str, port: int) -> None:
    table = Outbound(pins).outside_of(pod.namespace.id)
    assert table is not None
    with table:
        remove_outside(table, ip_address(address), port)
        remove_outside(table, ip_address(address), port)


def test_a_destination_outside_is_reached_without_the_proxy_and_is_captured_again(
    capture: Capture, network: Pair, proxy: Proxy, application: Application, pins: Path, family: int
) -> None:
    pod, there = network.pod, network.client.addresses[family]
    add(pins, pod, there, PORT)
    with pod.dial(there, PORT) as held:
        assert talk(held)
        remove(pins, pod, there, PORT)
        with pod.dial(there, PORT) as made:
            assert talk(made)
        assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
        body = os.urandom(1 << 20)
        held.sendall(body)
        held.shutdown(socket.SHUT_WR)
        received = b""
        while data := held.recv(1 << 16):
            received += data
        assert len(received) > len(body), "what is open stays as it was judged"
    assert proxy.seen.empty()
    assert counted(capture, pod, "outside", "marked", "leak", "reset") == (1, 1, 0, 0)
    assert conntrack.count(pod) == 0


def test_it_is_this_destination_and_no_other(network: Pair, proxy: Proxy, pins: Path) -> None:
    pod, client = network.pod, network.client
    there = client.addresses[socket.AF_INET]
    add(pins, pod, there, PORT + 1)
    add(pins, pod, client.addresses[socket.AF_INET6], PORT)
    with Application(client, PORT), pod.dial(there, PORT) as made:
        assert talk(made)
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)


def test_without_the_proxy_what_is_outside_is_still_reached_and_nothing_else_is(
    capture: Capture, network: Pair, application: Application, pins: Path, family: int
) -> None:
    pod, there = network.pod, network.client.addresses[family]
    capture.apply(pod.namespace)
    add(pins, pod, there, PORT)
    with Application(network.client, PORT + 1) as other:
        with pod.dial(there, PORT) as made:
            assert talk(made)
        assert refused(lambda: pod.dial(there, PORT + 1, timeout_s=0.6))
        assert other.peers.empty()


def test_all_of_them_can_be_forgotten(capture: Capture, network: Pair, pins: Path) -> None:
    pod = network.pod
    capture.apply(pod.namespace)
    for port in range(300):
        add(pins, pod, network.client.addresses[socket.AF_INET6], 1 + port)
    Outbound(pins).forget_outside()
    table = Outbound(pins).outside_of(pod.namespace.id)
    assert table is not None
    with table:
        assert outside(table) == set()


# ---- terms


@pytest.mark.parametrize(
    ("terms", "past"),
    [
        (Terms(exclude_outbound_ports=(PORT,)), {PORT}),
        (Terms(exclude_outbound_ranges=("10.77.0.0/24", "fd77::/64")), {PORT, PORT + 1}),
        (Terms(include_outbound_ranges=("10.77.0.2/32", "fd77::2/128")), set()),
        (Terms(include_outbound_ranges=("10.99.0.0/16",), include_outbound_ports=(PORT,)), {PORT + 1}),
        (
            Terms(include_outbound_ranges=("10.77.0.2/32", "fd77::2/128"), exclude_outbound_ranges=("10.77.0.0/16", "fd77::/16")),
            {PORT, PORT + 1},
        ),
    ],
)
def test_what_the_terms_leave_alone_goes_past_the_proxy(
    capture: Capture, network: Pair, listeners: tuple[Listener, ...], family: int, terms: Terms, past: set[int]
) -> None:
    pod, client = network.pod, network.client
    with Proxy(pod, listeners) as proxy, Application(client, PORT), Application(client, PORT + 1):
        capture.apply(pod.namespace, listeners)
        capture.apply(pod.namespace, listeners, terms)
        assert capture.inspect(pod.namespace, terms).state is CaptureState.CAPTURED
        for port in (PORT, PORT + 1):
            with pod.dial(client.addresses[family], port) as made:
                assert talk(made)
            assert proxy.seen.qsize() == (port not in past)
            assert port in past or proxy.seen.get(timeout=3)[2] == port


# ---- how it is held


def test_another_cgroup_under_the_same_name_is_taken_up(network: Pair, pins: Path) -> None:
    capture, pod = EbpfCapture(Steering(pins), Outbound(pins)), network.pod
    name = f"nm-again-{pod.name}"
    terms = Terms(cgroup=name)
    with Proxy(pod, listeners := open_listeners(pod.namespace)):
        capture.apply(pod.namespace, listeners, terms)
        found = capture.inspect(pod.namespace, terms)
        assert found.state is CaptureState.CAPTURED
        assert f"cgroup {name}" in found.remark
        for _ in range(2):
            with cgroups.made(name):
                assert "attached" in capture.inspect(pod.namespace, terms).problem
                capture.apply(pod.namespace, listeners, terms)
                found = capture.inspect(pod.namespace, terms)
                assert (found.state, found.problem, found.remark) == (CaptureState.CAPTURED, "", "")
        with cgroups.made(other := f"{name}-b"):
            moved = Terms(cgroup=other)
            capture.apply(pod.namespace, listeners, moved)
            assert capture.inspect(pod.namespace, moved).problem == ""
            assert "another cgroup" in capture.inspect(pod.namespace, Terms()).problem
            capture.apply(pod.namespace, listeners)
            assert capture.inspect(pod.namespace).problem == ""
        # The kernel takes a removed cgroup's links off a little later.
        eventually(
            lambda: (
                Outbound(pins).sweep() is None
                and [pin for pin in pins.iterdir() if pin.is_dir() and not pin.name.startswith("steer")] == []
            )
        )


@pytest.mark.parametrize("path", ["/", "/../elsewhere", "nm-absent"])
def test_a_cgroup_that_can_not_be_costs_nothing_but_the_marks(network: Pair, pins: Path, path: str) -> None:
    capture, pod, client = EbpfCapture(Steering(pins), Outbound(pins)), network.pod, network.client
    terms = Terms(cgroup=path)
    there = client.addresses[socket.AF_INET]
    with Proxy(pod, listeners := open_listeners(pod.namespace)) as proxy, Application(client, PORT):
        capture.apply(pod.namespace, listeners, terms)
        found = capture.inspect(pod.namespace, terms)
        assert (found.state, found.problem) == (CaptureState.CAPTURED, "")
        assert "captured by rules alone" in found.remark
        with pod.dial(there, PORT) as made:
            assert talk(made)
        assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)


@pytest.mark.parametrize("end", ["drain", "remove"])
def test_the_end_leaves_nothing_of_the_programs(capture: Capture, network: Pair, pins: Path, end: str) -> None:
    pod = network.pod
    capture.apply(pod.namespace)
    held = ids(pins)
    assert [len(held[kind]) for kind in ("prog_id", "link_id")] == [4, 4]
    getattr(capture, end)(pod.namespace)
    assert list(pins.iterdir()) == []
    eventually_gone(held)
    if end == "drain":
        capture.remove(pod.namespace)
    with Application(network.client, PORT), pod.dial(network.client.addresses[socket.AF_INET], PORT) as made:
        assert talk(made)


def test_a_connection_to_the_proxy_goes_on_while_it_is_drained(
    capture: Capture, network: Pair, proxy: Proxy, application: Application, pins: Path, family: int
) -> None:
    pod, there = network.pod, network.client.addresses[family]
    add(pins, pod, there, PORT + 1)
    with Application(network.client, PORT + 1), pod.dial(there, PORT) as carried, pod.dial(there, PORT + 1) as past:
        for made in (carried, past):
            assert talk(made)
        capture.drain(pod.namespace)
        for made in (carried, past):
            assert talk(made)
        assert proxy.seen.qsize() == 1
        with pod.dial(there, PORT) as made:
            assert talk(made)
        assert proxy.seen.qsize() == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Steering
from nodeagent.capture.ebpf import EbpfCapture
from nodeagent.capture.terms import Terms
from nodeagent.linux.namespaces import Namespace
root = Path(sys.argv[1])
EbpfCapture(Steering(root), Outbound(root)).apply(Namespace.open(sys.argv[2]), (), Terms(cgroup=sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_outlives_its_maker_and_closes_without_a_proxy(capture: Capture, network: Pair, application: Application, pins: Path) -> None:
    pod, there = network.pod, network.client.addresses[socket.AF_INET]
    here = next(path for path in root().iterdir() if path.is_dir() and str(os.getpid()) in (path / "cgroup.procs").read_text().split())
    subprocess.run([sys.executable, "-c", KILLED, str(pins), pod.namespace.path, here.name], check=False, timeout=30)
    assert refused(lambda: pod.dial(there, PORT, timeout_s=0.6))
    assert application.peers.empty()
    assert counted(capture, pod, "marked", "outbound") == (1, 0)
