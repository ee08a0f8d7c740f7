import socket
from collections.abc import Iterator

import pytest

from nodeagent.linux.errors import KernelError
from nodeagent.linux.sockets import has_loopback6, listener, netns_cookie
from tests.nodeagent.pods import Pair, pair


@pytest.fixture
def network() -> Iterator[Pair]:
    with pair() as made:
        yield made


def test_a_listener_carries_its_mark_and_so_do_its_connections(network: Pair) -> None:
    with network.pod.namespace.run(listener, "::", 15008, mark=0x539, both=True) as made:
        assert made.getsockopt(socket.SOL_SOCKET, 36) == 0x539
        assert not made.getblocking()
        for address in network.pod.addresses.values():
            with network.client.dial(address, 15008):
                made.settimeout(3)
                accepted, _ = made.accept()
                with accepted:
                    assert accepted.getsockopt(socket.SOL_SOCKET, 36) == 0x539


def test_one_family_leaves_the_other_free(network: Pair) -> None:
    run = network.pod.namespace.run
    with run(listener, "::1", 15006, mark=1, transparent=True) as six, run(listener, "127.0.0.1", 15006, mark=1, transparent=True) as four:
        assert six.getsockopt(socket.IPPROTO_IPV6, 75) == 1
        assert four.getsockopt(socket.IPPROTO_IP, 19) == 1


def test_a_port_in_use_is_named(network: Pair) -> None:
    run = network.pod.namespace.run
    with (
        run(listener, "0.0.0.0", 15008, mark=1),
        pytest.raises(KernelError, match=r"listener :: port 15008.*another process in the namespace"),
    ):
        run(listener, "::", 15008, mark=1, both=True)


def test_whether_ipv6_is_in_use() -> None:
    with pair(ipv6=False) as network:
        assert not network.pod.namespace.run(has_loopback6)
    with pair() as network:
        assert network.pod.namespace.run(has_loopback6)


def test_each_namespace_has_a_number_of_its_own(network: Pair) -> None:
    numbers = [side.namespace.run(netns_cookie) for side in (network.pod, network.client)] + [netns_cookie()]
    assert len(set(numbers)) == 3
    assert network.pod.namespace.run(netns_cookie) == numbers[0]
