"""Process groups of one host, a namespace of the test's: told apart, closed without a proxy, and nothing else of the host touched."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Steering
from nodeagent.capture.base import CaptureState
from nodeagent.capture.ebpf import slot_of
from nodeagent.capture.listeners import Listener, open_listeners
from nodeagent.capture.terms import TOTAL, Terms, of_host
from nodeagent.capture.unit_rules import PORTS, mark_of, table_of
from nodeagent.capture.units import INBOUND_REMARK, PLAINTEXT_REMARK, UnitCapture
from nodeagent.linux.units import Unit
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent import cgroups
from tests.nodeagent.bpf.objects import eventually
from tests.nodeagent.pods import Pair, Side, refused
from tests.nodeagent.standin import SO_MARK, Application, Proxy

PORT = 8080
FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass
class Group:
    """A process group of the host with its listeners, and a stand-in for the proxy on them."""

    unit: Unit
    path: Path
    listeners: tuple[Listener, ...]
    proxy: Proxy

    def dial(self, host: Side, address: str, port: int = PORT, *, timeout_s: float = 3.0) -> socket.socket:
        """As a process of the group does."""
        with cgroups.inside(self.path):
            return host.dial(address, port, timeout_s)


@pytest.fixture
def host(network: Pair) -> Side:
    return network.pod


@pytest.fixture
def capture(pins: Path) -> UnitCapture:
    return UnitCapture(pins, Outbound(pins))


@contextmanager
def group(host: Side) -> Iterator[Group]:
    with cgroups.made() as path, Unit.open(str(path), host.namespace.path) as unit:
        listeners = open_listeners(unit)
        with Proxy(host, listeners, shares_network=True) as proxy:
            yield Group(unit, path, listeners, proxy)


@pytest.fixture
def groups(host: Side, capture: UnitCapture) -> Iterator[tuple[Group, Group]]:
    with ExitStack() as stack:
        made = stack.enter_context(group(host)), stack.enter_context(group(host))
        for one in made:
            capture.apply(one.unit, one.listeners)
            stack.callback(capture.remove, one.unit)
        yield made


def talk(made: socket.socket) -> bytes:
    made.settimeout(5)
    made.sendall(b"hello")
    return made.recv(100)


def state_of(host: Side) -> dict[str, str]:
    """All that may be touched of a host's network."""
    commands = (
        *("nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "ss -Hltn"),
        "sysctl net.ipv4.tcp_fwmark_accept net.ipv4.fwmark_reflect net.ipv4.conf.all.rp_filter",
    )
    return {command: host.shell(*command.split()) for command in commands}


def settled(host: Side) -> dict[str, str]:
    """That, once the kernel has given its devices their addresses of the link, and the routes that go with these."""
    eventually(host.has_link_address)
    return state_of(host)


def test_each_has_its_own_and_all_others_none(
    host: Side, network: Pair, groups: tuple[Group, Group], capture: UnitCapture, family: int
) -> None:
    there, here = network.client.addresses[family], host.addresses[family]
    with Application(network.client, PORT) as application:
        for one, other in (groups, groups[::-1]):
            with one.dial(host, there) as made:
                assert talk(made)
                assert (made.getpeername()[:2], made.getsockname()[0]) == ((there, PORT), here)
            assert one.proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
            assert other.proxy.seen.empty()
        with host.dial(there, PORT) as made:
            assert talk(made)
            assert made.getsockopt(socket.SOL_SOCKET, SO_MARK) == 0
        assert [application.peers.get(timeout=3) for _ in range(3)] == [here] * 3
        assert all(one.proxy.seen.empty() for one in groups)
    for one in groups:
        found = capture.inspect(one.unit)
        assert (found.state, found.problem, found.remark) == (CaptureState.CAPTURED, "", INBOUND_REMARK)
        assert [found.counters[name].packets for name in ("marked", "outbound", "leftover", "leak")] == [1, 1, 0, 0]


def test_ipv4_through_an_ipv6_socket(host: Side, network: Pair, groups: tuple[Group, Group]) -> None:
    there = network.client.addresses[socket.AF_INET]
    with Application(network.client, PORT), cgroups.inside(groups[0].path), host.open_socket(socket.AF_INET6) as made:
        made.connect((f"::ffff:{there}", PORT))
        assert talk(made)
    assert groups[0].proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)


def test_removal_leaves_the_host_as_it_was(host: Side, capture: UnitCapture, pins: Path) -> None:
    before = settled(host)
    with group(host) as one, group(host) as other:
        for each in (one, other):
            capture.apply(each.unit, each.listeners)
            capture.apply(each.unit, each.listeners)
        assert state_of(host)["nft list ruleset"].count("table") == 2
        capture.remove(one.unit)
        capture.remove(one.unit)
        assert capture.inspect(one.unit).state is CaptureState.ABSENT
        assert capture.inspect(other.unit).state is CaptureState.CAPTURED
        capture.remove(other.unit)
        assert [pin for pin in pins.iterdir() if pin.is_dir()] == []
    eventually(lambda: state_of(host) == before)


def test_what_others_made_stays_when_ours_goes(host: Side, capture: UnitCapture) -> None:
    host.shell("nft", "add table inet nodemesh_others; add chain inet nodemesh_others kept")
    host.shell("ip", "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100")
    before = settled(host)
    with group(host) as one:
        capture.apply(one.unit, one.listeners)
        capture.remove(one.unit)
        host.namespace.run(capture.sweep)
    eventually(lambda: state_of(host) == before)


def test_without_a_proxy_they_are_closed_and_the_host_is_not(host: Side, network: Pair, groups: tuple[Group, Group], family: int) -> None:
    there = network.client.addresses[family]
    groups[0].proxy.close()
    with Application(network.client, PORT) as application:
        assert refused(lambda: groups[0].dial(host, there, timeout_s=0.6))
        assert application.peers.empty()
        with host.dial(there, PORT) as made:
            assert talk(made)
        with groups[1].dial(host, there) as made:
            assert talk(made)


def test_whatever_else_a_socket_has_it_is_captured_or_closed(host: Side, network: Pair, groups: tuple[Group, Group], family: int) -> None:
    there = network.client.addresses[family]
    with Application(network.client, PORT) as application, cgroups.inside(groups[0].path):
        with host.open_socket(family) as marked:
            marked.setsockopt(socket.SOL_SOCKET, SO_MARK, 0x7000)
            marked.connect((there, PORT))
            assert talk(marked)
        assert groups[0].proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
        assert application.peers.get(timeout=3)
        with host.open_socket(family) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
            bound.settimeout(0.6)
            assert refused(lambda: bound.connect((there, PORT)))
        assert application.peers.empty()


def test_nobody_gets_an_identity_by_its_listener(host: Side, groups: tuple[Group, Group], capture: UnitCapture) -> None:
    one = groups[0]
    [port] = {listener.socket.getsockname()[1] for listener in one.listeners if listener.kind is ListenerKind.OUTBOUND}
    assert port in PORTS
    for address in ("127.0.0.1", "::1"):
        assert refused(lambda address=address: host.dial(address, port, timeout_s=1))  # type: ignore[misc]
        assert refused(lambda address=address: one.dial(host, address, port, timeout_s=1))  # type: ignore[misc]
    assert one.proxy.seen.empty()
    counters = capture.inspect(one.unit).counters
    assert (counters["stranger"].packets, counters["stranger6"].packets) == (2, 2)


def test_loopback_is_the_hosts(host: Side, groups: tuple[Group, Group]) -> None:
    with Application(host, PORT):
        for address in ("127.0.0.1", "::1"):
            with groups[0].dial(host, address) as made:
                assert talk(made).startswith(address.encode())
    assert groups[0].proxy.seen.empty()


def test_what_the_terms_leave_alone_goes_as_the_hosts_does(
    host: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group]
) -> None:
    one, there, terms = groups[0], network.client.addresses[socket.AF_INET], Terms(exclude_outbound_ports=(PORT,))
    assert "other terms" in capture.inspect(one.unit, terms).problem
    capture.apply(one.unit, (), terms)
    assert capture.inspect(one.unit, terms).state is CaptureState.CAPTURED
    with Application(network.client, PORT), Application(network.client, PORT + 1):
        for port in (PORT, PORT + 1):
            with one.dial(host, there, port) as made:
                assert talk(made)
    assert one.proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT + 1)
    assert one.proxy.seen.empty()


def test_draining_keeps_what_is_open_and_lets_new_ones_go(
    host: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group]
) -> None:
    one, there = groups[0], network.client.addresses[socket.AF_INET]
    with Application(network.client, PORT), one.dial(host, there) as held:
        assert talk(held)
        one.proxy.seen.get(timeout=3)
        capture.drain(one.unit)
        capture.drain(one.unit)
        assert capture.inspect(one.unit).state is CaptureState.DRAINING
        assert talk(held)
        with one.dial(host, there) as made:
            assert talk(made)
        assert one.proxy.seen.empty()
        capture.apply(one.unit, one.listeners)
        assert talk(held)
        with one.dial(host, there) as made:
            assert talk(made)
        assert one.proxy.seen.get(timeout=3)


def test_other_listeners_take_over_and_leave_nothing_of_the_former(host: Side, network: Pair, capture: UnitCapture) -> None:
    there = network.client.addresses[socket.AF_INET]
    with group(host) as one, Application(network.client, PORT):
        capture.apply(one.unit, one.listeners)
        with Proxy(host, others := open_listeners(one.unit)) as proxy:
            capture.apply(one.unit, others)
            former, port = (listeners[0].socket.getsockname()[1] for listeners in (one.listeners, others))
            assert former != port
            with one.dial(host, there) as made:
                assert talk(made)
            assert proxy.seen.get(timeout=3)
            assert f"{mark_of(port):#x}" in host.shell("ip", "rule")
            assert f"{mark_of(former):#x}" not in host.shell("ip", "rule")
        capture.remove(one.unit)


@pytest.mark.parametrize(
    "spoil", ["nft flush chain inet {table} inbound", "ip rule del priority 20001", "ip -6 rule del priority 20001", "rm"]
)
def test_what_someone_changes_is_told_and_put_back(host: Side, network: Pair, capture: UnitCapture, pins: Path, spoil: str) -> None:
    with group(host) as one, Application(network.client, PORT):
        capture.apply(one.unit, one.listeners)
        if spoil == "rm":
            (pins / f"mark_outbound-{one.unit.id}" / "link").unlink()
        else:
            host.shell(*spoil.format(table=table_of(one.unit.id)).split())
        assert capture.inspect(one.unit).state is CaptureState.BROKEN
        capture.apply(one.unit)
        assert capture.inspect(one.unit).state is CaptureState.CAPTURED
        with one.dial(host, network.client.addresses[socket.AF_INET]) as made:
            assert talk(made)
        assert one.proxy.seen.get(timeout=3)
        capture.remove(one.unit)


def test_another_cgroup_of_the_same_name_has_nothing_of_the_former_and_that_is_swept(
    host: Side, network: Pair, capture: UnitCapture
) -> None:
    there = network.client.addresses[socket.AF_INET]
    before = settled(host)
    with Application(network.client, PORT):
        with group(host) as one:
            capture.apply(one.unit, one.listeners)
            name = one.path.name
        with cgroups.made(name) as again, Unit.open(str(again), host.namespace.path) as unit:
            assert capture.inspect(unit).state is CaptureState.ABSENT
            with cgroups.inside(again), host.dial(there, PORT) as made:
                assert talk(made), "as the host's: it is not enrolled"
            eventually(lambda: host.namespace.run(capture.sweep) is None and state_of(host) == before)


KILLED = """
import os, signal, sys
from pathlib import Path
from nodeagent.capture.listeners import open_listeners
from nodeagent.bpf.outbound import Outbound
from nodeagent.capture.units import UnitCapture
from nodeagent.linux.units import Unit
unit = Unit.open(sys.argv[2], sys.argv[3])
UnitCapture(root := Path(sys.argv[1]), Outbound(root)).apply(unit, open_listeners(unit))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_outlives_its_maker_and_is_taken_up_again(host: Side, network: Pair, capture: UnitCapture, pins: Path) -> None:
    there = network.client.addresses[socket.AF_INET]
    with cgroups.made() as path, Application(network.client, PORT) as application:
        subprocess.run([sys.executable, "-c", KILLED, str(pins), str(path), host.namespace.path], check=False, timeout=30)
        with Unit.open(str(path), host.namespace.path) as unit:
            one = Group(unit, path, (), Proxy(host, ()))
            assert refused(lambda: one.dial(host, there, timeout_s=0.6))
            assert application.peers.empty()
            with Proxy(host, listeners := open_listeners(unit)) as proxy:
                capture.apply(unit, listeners)
                with one.dial(host, there) as made:
                    assert talk(made)
                assert proxy.seen.get(timeout=3)
            capture.remove(unit)


# ---- what comes in


SERVING = Terms(include_inbound_ports=(PORT,))
HBONE = 15008
OWN = {socket.AF_INET: "10.77.0.50", socket.AF_INET6: "fd77::50"}
ALONE = Terms(include_inbound_ports=(PORT,), addresses=tuple(OWN.values()))


@pytest.fixture
def addressed(host: Side) -> Side:
    """The host with two more addresses, for a unit."""
    host.shell("ip", "address", "add", f"{OWN[socket.AF_INET]}/24", "dev", "eth0")
    host.shell("ip", "address", "add", f"{OWN[socket.AF_INET6]}/64", "dev", "eth0", "nodad")
    return host


def test_what_comes_to_its_ports_is_its_proxys_and_nothing_else(
    host: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group], family: int
) -> None:
    one, here, there = groups[0], host.addresses[family], network.client.addresses[family]
    capture.apply(one.unit, one.listeners, SERVING)
    with Application(host, PORT) as application, Application(host, PORT + 1):
        with network.client.dial(here, PORT) as made:
            assert talk(made)
            assert made.getpeername()[:2] == (here, PORT)
        assert one.proxy.seen.get(timeout=3) == (ListenerKind.INBOUND, here, PORT)
        assert application.peers.get(timeout=3) == here, "the application sees its host as the client"
        with network.client.dial(here, PORT + 1) as made:
            assert talk(made).startswith(there.encode())
        for address in (here, "127.0.0.1"):
            with host.dial(address, PORT) as made:
                assert talk(made), "the host's own processes share its network"
        assert refused(lambda: network.client.dial(here, HBONE, timeout_s=1))
    assert all(each.proxy.seen.empty() for each in groups)
    found = capture.inspect(one.unit, SERVING)
    assert (found.state, found.problem, found.remark) == (CaptureState.CAPTURED, "", PLAINTEXT_REMARK)
    assert found.counters["inbound"].packets == 1


def test_it_takes_tunnels_at_its_own_addresses(
    addressed: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group], family: int
) -> None:
    one, other = groups
    capture.apply(one.unit, one.listeners, ALONE)
    for source in (network.client, addressed):
        with source.dial(OWN[family], HBONE) as made:
            assert made.recv(10) == b"hbone\n"
        assert one.proxy.seen.get(timeout=3) == (ListenerKind.HBONE, OWN[family], HBONE)
    assert refused(lambda: network.client.dial(addressed.addresses[family], HBONE, timeout_s=1))
    assert capture.inspect(one.unit, ALONE).remark == ""
    # The second comes too late for both, and says so.
    capture.apply(other.unit, other.listeners, ALONE)
    found = capture.inspect(other.unit, ALONE)
    assert found.state is CaptureState.CAPTURED
    assert found.remark.startswith(f"another unit has port 15008 of {OWN[socket.AF_INET]}")
    with network.client.dial(OWN[family], HBONE) as made:
        assert made.recv(10) == b"hbone\n"
    assert one.proxy.seen.get(timeout=3)
    capture.remove(one.unit)
    assert capture.inspect(other.unit, ALONE).state is CaptureState.BROKEN, "what it may have now it has not yet"
    capture.apply(other.unit, (), ALONE)
    with network.client.dial(OWN[family], HBONE) as made:
        assert made.recv(10) == b"hbone\n"
    assert other.proxy.seen.get(timeout=3)


def test_two_may_have_one_port_at_addresses_of_their_own(
    addressed: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group]
) -> None:
    addresses = (OWN[socket.AF_INET], addressed.addresses[socket.AF_INET])
    with Application(addressed, PORT):
        for one, address in zip(groups, addresses, strict=True):
            terms = Terms(include_inbound_ports=(PORT,), addresses=(address,))
            capture.apply(one.unit, one.listeners, terms)
            assert capture.inspect(one.unit, terms).remark == ""
        for one, address in zip(groups, addresses, strict=True):
            with network.client.dial(address, PORT) as made:
                assert talk(made)
            assert one.proxy.seen.get(timeout=3) == (ListenerKind.INBOUND, address, PORT)


def test_without_a_proxy_its_ports_are_closed_and_others_are_not(
    host: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group], family: int
) -> None:
    one, here = groups[0], host.addresses[family]
    capture.apply(one.unit, one.listeners, SERVING)
    one.proxy.close()
    with Application(host, PORT) as application, Application(host, PORT + 1):
        assert refused(lambda: network.client.dial(here, PORT, timeout_s=0.6))
        assert application.peers.empty()
        with network.client.dial(here, PORT + 1) as made:
            assert talk(made)
    found = capture.inspect(one.unit, SERVING)
    assert (found.state, "no listener for" in found.problem) == (CaptureState.BROKEN, True)
    assert found.counters["closed"].packets >= 1


def test_terms_that_name_no_ports_any_more_take_them_back(
    host: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group]
) -> None:
    one, here = groups[0], host.addresses[socket.AF_INET]
    capture.apply(one.unit, one.listeners, SERVING)
    assert "other ports" in capture.inspect(one.unit).problem
    capture.apply(one.unit)
    assert capture.inspect(one.unit).remark == INBOUND_REMARK
    with Application(host, PORT), network.client.dial(here, PORT) as made:
        assert talk(made)
    assert one.proxy.seen.empty()


def test_a_drain_lets_what_comes_in_go_to_the_application(
    host: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group]
) -> None:
    one, here = groups[0], host.addresses[socket.AF_INET]
    capture.apply(one.unit, one.listeners, SERVING)
    with Application(host, PORT), network.client.dial(here, PORT) as held:
        assert talk(held)
        one.proxy.seen.get(timeout=3)
        capture.drain(one.unit)
        assert talk(held)
        with network.client.dial(here, PORT) as made:
            assert talk(made)
    assert one.proxy.seen.empty()
    assert capture.inspect(one.unit, SERVING).state is CaptureState.DRAINING


def test_a_unit_of_a_host_that_is_captured_as_a_whole_keeps_its_ports(
    addressed: Side, network: Pair, capture: UnitCapture, groups: tuple[Group, Group], pins: Path, family: int
) -> None:
    """Whichever of the two was captured first."""
    one, namespace = groups[0], addressed.namespace
    steering, listeners = Steering(pins), open_listeners(namespace)
    slots = {slot: listener.socket for listener in listeners if (slot := slot_of(listener)) is not None}
    with Proxy(addressed, listeners, shares_network=True) as whole, Application(addressed, PORT), Application(addressed, PORT + 1):
        for first, second in (("unit", "host"), ("host", "unit")):
            for each in (first, second):
                if each == "unit":
                    capture.apply(one.unit, one.listeners, ALONE)
                else:
                    steering.attach(namespace, slots, of_host(TOTAL, ports_given=False))
            for port, proxy in ((PORT, one.proxy), (PORT + 1, whole)):
                with network.client.dial(addressed.addresses[family], port) as made:
                    assert talk(made)
                assert proxy.seen.get(timeout=3) == (ListenerKind.INBOUND, addressed.addresses[family], port)
            for address, proxy in ((OWN[family], one.proxy), (addressed.addresses[family], whole)):
                with network.client.dial(address, HBONE) as made:
                    assert made.recv(10) == b"hbone\n"
                assert proxy.seen.get(timeout=3)[0] is ListenerKind.HBONE
            assert one.proxy.seen.empty()
            assert whole.seen.empty()
            capture.apply(one.unit)
            steering.detach(namespace)
