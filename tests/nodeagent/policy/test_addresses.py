"""Addresses are written as the standard library writes them."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from meshapi.workload import IPAddress
from nodeagent.policy.addresses import address_text, parse_socket_address, plain, socket_address

_addresses = st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)


@given(_addresses, st.integers(1, 65535))
def test_text_is_the_standard_form(address: IPAddress, port: int) -> None:
    assert address_text(address) == str(address)
    assert parse_socket_address(socket_address(address, port)) == (plain(address), port)
