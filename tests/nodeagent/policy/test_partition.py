"""Numbers in pieces: every set is a union of pieces, and those in the same sets share a class."""

from bisect import bisect_right
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.authorization import IPNetwork
from nodeagent.policy.addresses import plain, plain_network
from nodeagent.policy.partition import Partition, address, number, of_addresses, of_ports

ADDRESSES = ["0.0.0.0", "10.0.0.1", "10.0.0.255", "255.255.255.255", "::", "::1", "::fffe:ffff:ffff", "::1:0:0:0", "fd00::3"]
BLOCKS = ["0.0.0.0/0", "10.0.0.0/24", "10.0.0.1/32", "255.255.255.255/32", "::/0", "::/64", "::ffff:10.0.0.0/104", "fd00::/8", "::/128"]


def class_of(partition: Partition, value: int) -> int:
    return partition.classes[bisect_right(partition.starts, value) - 1]


def test_without_sets_there_is_one_piece() -> None:
    assert of_addresses(()) == of_ports(()) == Partition((0,), (0,), (0,))
    assert of_addresses([(ip_network("::/0"), ip_network("0.0.0.0/0"))]) == Partition((0,), (0,), (0,))


def test_pieces_of_ports() -> None:
    assert of_ports([(80, 81), (443,), (81,), ()]) == Partition(
        starts=(0, 80, 81, 82, 443, 444), classes=(0, 1, 2, 0, 3, 0), samples=(0, 80, 81, 443)
    )
    assert of_ports([(0, 65535)]) == Partition((0, 1, 65535), (0, 1, 0), (0, 1))


def test_a_block_of_ipv6_around_the_mapped_addresses_leaves_them_to_ipv4() -> None:
    cut = of_addresses([(ip_network("::/0"),)])
    assert class_of(cut, number(ip_address("10.0.0.1"))) != class_of(cut, number(ip_address("::1")))
    assert class_of(cut, number(ip_address("::1"))) == class_of(cut, number(ip_address("fd00::1")))


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_and_its_number(text: str) -> None:
    assert address(number(ip_address(text))) == ip_address(text)
    assert number(ip_address("::ffff:10.0.0.1")) == number(ip_address("10.0.0.1"))


_networks = st.lists(st.sampled_from(BLOCKS).map(ip_network), max_size=3)


@given(st.lists(_networks, max_size=4), st.lists(st.ip_addresses(), max_size=3))
@settings(max_examples=200, deadline=None)
def test_addresses_of_one_class_are_in_the_same_blocks(sets: list[list[IPNetwork]], others: list[object]) -> None:
    cut = of_addresses(sets)
    assert cut.starts[0] == 0
    assert sorted(set(cut.starts)) == list(cut.starts)
    assert set(cut.classes) == set(range(len(cut.samples)))
    edges = [edge for start in cut.starts for edge in (start - 1, start) if edge >= 0]
    for value in [*edges, *(number(one) for one in others)]:  # type: ignore[arg-type]
        sample = address(cut.samples[class_of(cut, value)])
        for networks in sets:
            assert inside(address(value), networks) == inside(sample, networks)


def inside(one: object, networks: list[IPNetwork]) -> bool:
    return any(plain(one) in plain_network(network) for network in networks)  # type: ignore[arg-type]
