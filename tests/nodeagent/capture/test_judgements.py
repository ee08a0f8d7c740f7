"""The tables that the marking programs are given say what the terms say."""

from ipaddress import IPv6Network, ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.bpf.outbound import PORTS_ROOM, Judgements, Term, mapped
from nodeagent.capture.judgements import judgements
from nodeagent.capture.terms import Address, Network, Terms, ordered

# Few, so that they meet: ranges within each other, of both families, and IPv4 that is written as IPv6.
RANGES = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "fd00::/8", "fd00:1::/32", "fd00:1::1/128", "192.0.2.0/24",
          "::ffff:0:0/96", "::ffff:a00:0/104"]  # fmt: skip
ADDRESSES = ["10.0.0.1", "10.1.0.1", "10.1.2.3", "192.0.2.9", "203.0.113.1", "fd00::1", "fd00:1::1", "fd00:1::2", "2001:db8::1"]
PORTS = [1, 80, 443, 65535]

ranges: st.SearchStrategy[tuple[str, ...]] = st.lists(st.sampled_from(RANGES)).map(lambda given: ordered(network(one) for one in given))
ports = st.lists(st.sampled_from(PORTS), unique=True).map(lambda given: tuple(sorted(given)))


def network(text: str) -> Network:
    return ip_network(text)


def captured(tables: Judgements, address: Address, port: int) -> bool:
    """As mark_outbound.bpf.c judges."""
    found = [one for one in tables.ranges if mapped(address) in one]
    said = {tables.ports.get(port), tables.ranges[max(found, key=lambda one: one.prefixlen)] if found else None}
    if Term.EXCLUDED in said:
        return False
    return Term.INCLUDED in said or tables.rest_captured


@given(st.builds(Terms, include_outbound_ports=ports, exclude_outbound_ports=ports, include_outbound_ranges=st.none() | ranges,
                 exclude_outbound_ranges=ranges))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_tables_and_terms_agree(terms: Terms) -> None:
    tables = judgements(terms)
    assert tables is not None
    for address in map(ip_address, ADDRESSES):
        for port in (*PORTS, 8080):
            assert captured(tables, address, port) == terms.captures_outbound(address, port), (address, port)


def test_what_there_is_no_room_for_is_not_half_told() -> None:
    assert judgements(Terms(exclude_outbound_ports=tuple(range(1, PORTS_ROOM + 1)))) is not None
    assert judgements(Terms(exclude_outbound_ports=tuple(range(1, PORTS_ROOM + 2)))) is None


def test_ranges_of_ipv4_are_those_of_mapped_addresses() -> None:
    tables = judgements(Terms(exclude_outbound_ranges=("10.0.0.0/8", "fd00::/8")))
    assert tables is not None
    assert {one for one, term in tables.ranges.items() if term is Term.EXCLUDED} == {
        IPv6Network("::ffff:a00:0/104"),
        IPv6Network("fd00::/8"),
    }
