"""The terms on which a workload is captured: what of its traffic is left alone, and what happens while its proxy is away.

Where Istio has an annotation, its meaning is Istio's:

- Outbound, in this order: excluded ports and ranges are left alone; then included ports are captured whatever the address; then the
  included ranges are, which are all if nothing is said, and none if what is said is empty.
- Inbound: the included ports are captured, all if nothing is said, none if what is said is empty. Excluded ports count only where all
  are included.
- The port of HBONE is the mesh's own, and never left alone.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_network
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from meshapi.wire import HBONE_PORT, METRICS_PORT, READINESS_PORT

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
_LAST_PORT = 65535
_SSH_PORT = 22


class PortRange(NamedTuple):
    """Both ends belong to it."""

    first: int
    last: int


class Terms(Struct, frozen=True):
    """What capture is to do for one workload. Ports are sorted; ranges are in the form that `ordered` gives them."""

    fail_open: bool = False
    """While the proxy is away, connections pass to and from the applications as if there were no mesh; else they are refused."""
    include_outbound_ports: tuple[int, ...] = ()
    exclude_outbound_ports: tuple[int, ...] = ()
    include_outbound_ranges: tuple[str, ...] | None = None
    """As `10.0.0.0/8`, of both families. None: all."""
    exclude_outbound_ranges: tuple[str, ...] = ()
    include_inbound_ports: tuple[int, ...] | None = None
    """None: all."""
    exclude_inbound_ports: tuple[int, ...] = ()
    dns: bool = False
    """Its questions to DNS go to the agent, where the capture can."""
    cgroup: str = ""
    """Of the workload's processes, a path below the mount of cgroup v2; empty if it is not known."""
    addresses: tuple[str, ...] = ()
    """Of a process group: those of its host that are its alone, where it takes tunnels."""
    whole_host: bool = False
    """It is the node's own network: what that forwards for others is not the workload's, and the agent's connections go past the proxy."""

    def captures_outbound(self, address: Address, port: int) -> bool:
        """Whether a connection of the workload to `address` is the proxy's. The rules of each capture say the same in their words."""
        if port in self.exclude_outbound_ports or _within(address, self.exclude_outbound_ranges):
            return False
        if port in self.include_outbound_ports or self.include_outbound_ranges is None:
            return True
        return _within(address, self.include_outbound_ranges)

    def captures_inbound(self, port: int) -> bool:
        """Whether a connection to `port` of the workload is the proxy's."""
        return not any(first <= port <= last for first, last in self.open_inbound())

    def open_inbound(self) -> tuple[PortRange, ...]:
        """The ports that are left alone, as ranges."""
        if self.include_inbound_ports is None:
            return _ranges(port for port in self.exclude_inbound_ports if port != HBONE_PORT)
        return _between({*self.include_inbound_ports, HBONE_PORT})

    @property
    def leaves_outbound_alone(self) -> bool:
        """Whether there is a destination whose connections are not captured."""
        return bool(self.exclude_outbound_ports or self.exclude_outbound_ranges) or self.include_outbound_ranges is not None

    @property
    def total(self) -> bool:
        """Whether all is captured, as long as the proxy is there."""
        return not self.leaves_outbound_alone and not self.open_inbound()


TOTAL = Terms()


def of_host(terms: Terms, *, ports_given: bool) -> Terms:
    """The terms of a whole host, which must be reached when the mesh is not: by SSH, unless its ports are given, and its agent."""
    excluded = {METRICS_PORT, READINESS_PORT, *terms.exclude_inbound_ports} | (set() if ports_given else {_SSH_PORT})
    return replace(terms, whole_host=True, exclude_inbound_ports=tuple(sorted(excluded)))


def ordered(ranges: Iterable[Network]) -> tuple[str, ...]:
    """The same addresses in one form: IPv4 first, sorted, none within another."""
    given = list(ranges)
    ipv4 = collapse_addresses(one for one in given if isinstance(one, IPv4Network))
    ipv6 = collapse_addresses(one for one in given if isinstance(one, IPv6Network))
    return tuple(str(one) for one in (*ipv4, *ipv6))


def _within(address: Address, ranges: Iterable[str]) -> bool:
    return any(address in ip_network(one) for one in ranges)


def _ranges(ports: Iterable[int]) -> tuple[PortRange, ...]:
    made: list[PortRange] = []
    for port in sorted(set(ports)):
        if made and made[-1].last == port - 1:
            made[-1] = PortRange(made[-1].first, port)
        else:
            made.append(PortRange(port, port))
    return tuple(made)


def _between(captured: Iterable[int]) -> tuple[PortRange, ...]:
    """What is left of all ports."""
    made: list[PortRange] = []
    first = 1
    for port in sorted(set(captured)):
        if port > first:
            made.append(PortRange(first, port - 1))
        first = port + 1
    if first <= _LAST_PORT:
        made.append(PortRange(first, _LAST_PORT))
    return tuple(made)
