"""Terms as a table: which connections are captured, by Istio's order of the annotations."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshapi.wire import HBONE_PORT
from nodeagent.capture.terms import TOTAL, PortRange, Terms, ordered

TEN, FD = ("10.0.0.0/8",), ("fd00::/8",)


@pytest.mark.parametrize(
    ("terms", "captured", "left_alone"),
    [
        (TOTAL, ["10.1.1.1:80", "[fd00::1]:80"], []),
        (Terms(exclude_outbound_ports=(80,)), ["10.1.1.1:81"], ["10.1.1.1:80", "[fd00::1]:80"]),
        (Terms(exclude_outbound_ranges=TEN), ["11.1.1.1:80", "[fd00::1]:80"], ["10.1.1.1:80"]),
        (Terms(exclude_outbound_ranges=FD), ["10.1.1.1:80"], ["[fd00::1]:80"]),
        (Terms(include_outbound_ranges=TEN), ["10.1.1.1:80"], ["11.1.1.1:80", "[fd00::1]:80"]),
        (Terms(include_outbound_ranges=()), [], ["10.1.1.1:80", "[fd00::1]:80"]),
        (Terms(include_outbound_ranges=(), include_outbound_ports=(80,)), ["10.1.1.1:80", "[fd00::1]:80"], ["10.1.1.1:81"]),
        (Terms(include_outbound_ranges=TEN, exclude_outbound_ranges=("10.1.0.0/16",)), ["10.2.0.1:80"], ["10.1.0.1:80", "11.0.0.1:80"]),
        (Terms(include_outbound_ports=(80,), exclude_outbound_ports=(80,)), ["10.1.1.1:81"], ["10.1.1.1:80"]),
        (Terms(include_outbound_ports=(80,), exclude_outbound_ranges=TEN), ["11.1.1.1:80"], ["10.1.1.1:80"]),
    ],
)
def test_outbound(terms: Terms, captured: list[str], left_alone: list[str]) -> None:
    def is_captured(destination: str) -> bool:
        host, _, port = destination.rpartition(":")
        return terms.captures_outbound(ip_address(host.strip("[]")), int(port))

    assert [one for one in captured if not is_captured(one)] == []
    assert [one for one in left_alone if is_captured(one)] == []
    assert terms.total == (not left_alone)


@pytest.mark.parametrize(
    ("terms", "left_alone"),
    [
        (TOTAL, ()),
        (Terms(exclude_inbound_ports=(9, 80, 81)), ((9, 9), (80, 81))),
        (Terms(exclude_inbound_ports=(HBONE_PORT,)), ()),
        (Terms(include_inbound_ports=()), ((1, 15007), (15009, 65535))),
        (Terms(include_inbound_ports=(1, 80, 65535)), ((2, 79), (81, 15007), (15009, 65534))),
        (Terms(include_inbound_ports=(80,), exclude_inbound_ports=(80,)), ((1, 79), (81, 15007), (15009, 65535))),
    ],
)
def test_inbound(terms: Terms, left_alone: tuple[PortRange, ...]) -> None:
    assert terms.open_inbound() == left_alone
    assert terms.total == (not left_alone)


PORTS = st.frozensets(st.integers(1, 65535), max_size=8).map(lambda ports: tuple(sorted(ports)))


@given(st.none() | PORTS, PORTS, st.integers(1, 65535))
def test_ranges_are_the_ports_that_are_not_captured(include: tuple[int, ...] | None, exclude: tuple[int, ...], other: int) -> None:
    terms = Terms(include_inbound_ports=include, exclude_inbound_ports=exclude)
    for port in (*exclude, *(include or ()), HBONE_PORT, other):
        wanted = port == HBONE_PORT or (port in include if include is not None else port not in exclude)
        assert terms.captures_inbound(port) == wanted
    flat = [port for one in terms.open_inbound() for port in one]
    assert flat == sorted(flat)


@given(st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/9", "10.128.0.0/9", "0.0.0.0/1", "fd00::/8", "fd00:1::/32"])))
def test_one_form_for_the_same_addresses(ranges: list[str]) -> None:
    made = ordered(ip_network(one) for one in ranges)
    assert made == ordered(ip_network(one) for one in reversed(ranges)) == ordered(ip_network(one) for one in made)
    for one in ranges:
        for address in (ip_network(one)[0], ip_network(one)[-1]):
            assert any(address in ip_network(other) for other in made)
