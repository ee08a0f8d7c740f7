"""What the programs of a workload's cgroup are told of its terms: a pure function."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from nodeagent.bpf.outbound import PORTS_ROOM, RANGES_ROOM, Judgements, Term, mapped
from nodeagent.capture.terms import Network, Terms

_IPV4: Final = IPv6Network("::ffff:0:0/96")
"""Where addresses of IPv4 are mapped to: what is said of IPv6, all of it say, is not said of these."""


def judgements(terms: Terms) -> Judgements | None:
    """What `Terms.captures_outbound` says, in tables; None if it takes more than there is room for."""
    ports = dict.fromkeys(terms.include_outbound_ports, Term.INCLUDED) | dict.fromkeys(terms.exclude_outbound_ports, Term.EXCLUDED)
    excluded = _networks(terms.exclude_outbound_ranges)
    included = _networks(terms.include_outbound_ranges or ())
    # The tables take the most specific range, and the terms an excluded one, however wide it is.
    ranges = {_IPV4: Term.NONE}
    ranges |= {_mapped(one): Term.INCLUDED for one in included if not any(_within(one, other) for other in excluded)}
    ranges |= {_mapped(one): Term.EXCLUDED for one in excluded}
    if len(ports) > PORTS_ROOM or len(ranges) > RANGES_ROOM:
        return None
    return Judgements(ports, ranges, rest_captured=terms.include_outbound_ranges is None)


def _networks(ranges: Iterable[str]) -> list[Network]:
    """Without those of mapped addresses: no packet of IPv6 has one, and they are not said of IPv4."""
    parsed = [ip_network(one) for one in ranges]
    return [one for one in parsed if isinstance(one, IPv4Network) or not one.subnet_of(_IPV4)]


def _within(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)


def _mapped(one: Network) -> IPv6Network:
    if isinstance(one, IPv4Network):
        return IPv6Network((mapped(one.network_address), _IPV4.prefixlen + one.prefixlen))
    return one
