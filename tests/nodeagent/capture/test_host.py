"""A whole host, a namespace of the test's: captured as a pod is, the agent's own connections not, and what it forwards for others not."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Steering
from nodeagent.capture.base import CaptureState
from nodeagent.capture.ebpf import EbpfCapture
from nodeagent.capture.host import AgentsOwn, WithHost
from nodeagent.capture.listeners import open_listeners
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.capture.terms import TOTAL, of_host
from nodeagent.linux.cgroups import root
from nodeagent.linux.errors import KernelError
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent import cgroups
from tests.nodeagent.bpf.objects import eventually
from tests.nodeagent.pods import Pair, Side, refused
from tests.nodeagent.standin import Application, Proxy

PORT = 8080
SSH = 22
TERMS = of_host(TOTAL, ports_given=False)


@dataclass
class Host:
    """The captured host, and the cgroup that its agent is in."""

    side: Side
    capture: WithHost
    agent: Path
    proxy: Proxy


@pytest.fixture
def host(network: Pair, pins: Path) -> Iterator[Host]:
    with captured(network, pins) as made:
        yield made


@contextmanager
def captured(network: Pair, pins: Path) -> Iterator[Host]:
    side = network.pod
    side.shell("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1")
    with cgroups.made() as agent, ExitStack() as stack:
        outbound = Outbound(pins)
        capture = WithHost(EbpfCapture(Steering(pins), outbound), AgentsOwn(outbound, str(agent)), side.namespace.key)
        listeners = open_listeners(side.namespace)
        proxy = stack.enter_context(Proxy(side, listeners))
        capture.apply(side.namespace, listeners, TERMS)
        stack.callback(capture.remove, side.namespace)
        yield Host(side, capture, agent, proxy)


def talk(made: socket.socket) -> bytes:
    made.settimeout(5)
    made.sendall(b"hello")
    return made.recv(100)


@contextmanager
def third(network: Pair) -> Iterator[Side]:
    """Somebody behind the host, as a container is, whose packets it forwards to the client and back."""
    name = network.pod.name.replace("-pod", "-box")
    _ip("netns", "add", name)
    try:
        _ip("-n", network.pod.name, "link", "add", "box", "type", "veth", "peer", "name", "eth0", "netns", name)
        for where, device, address in ((network.pod.name, "box", "10.78.0.1/24"), (name, "eth0", "10.78.0.2/24")):
            _ip("-n", where, "address", "add", address, "dev", device)
            _ip("-n", where, "link", "set", device, "up")
        _ip("-n", name, "route", "add", "default", "via", "10.78.0.1")
        _ip("-n", network.client.name, "route", "add", "10.78.0.0/24", "via", network.pod.addresses[socket.AF_INET])
        network.pod.shell("sysctl", "-qw", "net.ipv4.ip_forward=1")
        with network.pod.namespace.open(f"/run/netns/{name}") as namespace:
            yield Side(name, namespace, {socket.AF_INET: "10.78.0.2"})
    finally:
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


def test_it_is_captured_both_ways_and_its_agent_is_not(host: Host, network: Pair, family: int) -> None:
    here, there = host.side.addresses[family], network.client.addresses[family]
    with Application(network.client, PORT) as far, Application(host.side, PORT) as near:
        with host.side.dial(there, PORT) as made:
            assert talk(made)
        assert host.proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, there, PORT)
        with network.client.dial(here, PORT) as made:
            assert talk(made).startswith(there.encode()), "the application sees who calls"
        assert host.proxy.seen.get(timeout=3) == (ListenerKind.INBOUND, here, PORT)
        assert near.peers.get(timeout=3) == there
        with cgroups.inside(host.agent), host.side.dial(there, PORT) as made:
            assert talk(made)
        assert [far.peers.get(timeout=3) for _ in range(2)] == [here, here]
    assert host.proxy.seen.empty()
    assert host.capture.inspect(host.side.namespace, TERMS).state is CaptureState.CAPTURED


def test_without_a_proxy_it_is_closed_but_for_its_agent_and_ssh(host: Host, network: Pair, family: int) -> None:
    here, there = host.side.addresses[family], network.client.addresses[family]
    host.proxy.close()
    with Application(network.client, PORT), Application(host.side, PORT), Application(host.side, SSH):
        assert refused(lambda: host.side.dial(there, PORT, timeout_s=0.6))
        assert refused(lambda: network.client.dial(here, PORT, timeout_s=0.6))
        with cgroups.inside(host.agent), host.side.dial(there, PORT) as made:
            assert talk(made)
        with network.client.dial(here, SSH) as made:
            assert talk(made)


def test_whoever_came_by_ssh_stays_and_all_else_from_before_begins_anew(network: Pair, pins: Path, family: int) -> None:
    side, client = network.pod, network.client
    here, there = side.addresses[family], client.addresses[family]
    with Application(side, SSH), Application(side, PORT), Application(client, PORT), ExitStack() as stack:
        session, inside, outside = (
            stack.enter_context(source.dial(address, port))
            for source, address, port in ((client, here, SSH), (client, here, PORT), (side, there, PORT))
        )
        assert all(talk(one) for one in (session, inside, outside))
        host = stack.enter_context(captured(network, pins))
        assert talk(session)
        for one in (inside, outside):
            assert refused(lambda one=one: _heard(one))  # type: ignore[misc]
        assert talk(session)
        host.capture.apply(side.namespace, (), TERMS)
        assert talk(session)


def _heard(made: socket.socket) -> None:
    """Raises OSError where nobody answers any more."""
    if not talk(made):
        raise ConnectionError("closed")


def test_loopback_is_its_own(host: Host) -> None:
    with Application(host.side, PORT):
        for address in ("127.0.0.1", "::1"):
            with host.side.dial(address, PORT) as made:
                assert talk(made).startswith(address.encode())
    assert host.proxy.seen.empty()


def test_what_it_forwards_for_others_passes_with_and_without_a_proxy(host: Host, network: Pair) -> None:
    with third(network) as box, Application(network.client, PORT) as far, Application(box, PORT) as near:
        for _ in range(2):
            with box.dial(network.client.addresses[socket.AF_INET], PORT) as made:
                assert talk(made)
            with network.client.dial(box.addresses[socket.AF_INET], PORT) as made:
                assert talk(made)
            assert far.peers.get(timeout=3) == box.addresses[socket.AF_INET]
            assert near.peers.get(timeout=3) == network.client.addresses[socket.AF_INET]
            host.proxy.close()
    assert host.proxy.seen.empty()


def test_an_exemption_that_is_lost_is_seen_and_made_anew(host: Host, network: Pair) -> None:
    there = network.client.addresses[socket.AF_INET]
    Outbound.detach(host.capture._own._outbound, host.agent.stat().st_ino)  # type: ignore[union-attr]
    found = host.capture.inspect(host.side.namespace, TERMS)
    assert (found.state, found.problem) == (CaptureState.BROKEN, "the agent's own connections are not told apart")
    host.capture.apply(host.side.namespace, (), TERMS)
    assert host.capture.inspect(host.side.namespace, TERMS).state is CaptureState.CAPTURED
    with Application(network.client, PORT), cgroups.inside(host.agent), host.side.dial(there, PORT) as made:
        assert talk(made)
    assert host.proxy.seen.empty()


def test_removal_leaves_the_host_as_it_was(network: Pair, pins: Path) -> None:
    side, outbound = network.pod, Outbound(pins)

    def state() -> list[str]:
        commands = ("nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "sysctl net.ipv4.tcp_fwmark_accept")
        return [side.shell(*command.split()) for command in commands]

    before = state()
    with cgroups.made() as agent:
        capture = WithHost(EbpfCapture(Steering(pins), outbound), AgentsOwn(outbound, str(agent)), side.namespace.key)
        for listener in (listeners := open_listeners(side.namespace)):
            listener.socket.close()
        capture.apply(side.namespace, (), TERMS)
        assert state() != before
        capture.remove(side.namespace)
        capture.remove(side.namespace)
    assert listeners
    eventually(lambda: state() == before)
    assert not list(pins.glob("*_*-*"))


def test_where_agent_and_host_cannot_be_told_apart_nothing_is_captured(network: Pair, pins: Path) -> None:
    side, outbound = network.pod, Outbound(pins)
    ebpf, key = EbpfCapture(Steering(pins), outbound), side.namespace.key
    for capture, why in (
        (WithHost(ebpf, AgentsOwn(outbound, str(root())), key), "every process's"),
        (WithHost(ebpf, AgentsOwn(outbound, ""), key), "cgroup version 2"),
        (WithHost(NftablesCapture(), None, key), "by ebpf, not by nftables"),
    ):
        with pytest.raises(KernelError, match=why):
            capture.apply(side.namespace, (), TERMS)
        assert capture.inspect(side.namespace, TERMS).state is CaptureState.ABSENT
        capture.remove(side.namespace)
