"""Where a connection comes from, as gRPC names its peers: `ipv4:10.0.0.1:5000`, `ipv6:%5Bfd00::1%5D:5000`."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote


def peer_address(peer: str) -> IPv4Address | IPv6Address | None:
    """The address; None for a peer that has none. An IPv4 address that was taken on an IPv6 socket is one."""
    _, _, place = peer.partition(":")
    try:
        address = ip_address(unquote(place).rpartition(":")[0].strip("[]"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
