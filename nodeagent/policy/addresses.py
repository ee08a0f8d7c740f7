"""Addresses in the one form that everything compares: an IPv4-mapped IPv6 address is the IPv4 address that it carries."""

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from meshapi.authorization import IPNetwork
from meshapi.decoding import MAX_PORT
from meshapi.workload import IPAddress

_MAPPED: Final = IPv6Network("::ffff:0:0/96")


class AddressError(ValueError):
    """A string that is no address, or no address with port."""


def plain(address: IPAddress) -> IPAddress:
    """The address itself, or the IPv4 address of an IPv4-mapped one."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def plain_network(network: IPNetwork) -> IPNetwork:
    """The block itself, or the IPv4 block of one that lies within the IPv4-mapped addresses."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None  # noqa: S101 - every address of ::ffff:0:0/96 has one
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def parse_address(text: str) -> IPAddress:
    """Reads an address in plain form; a zone or anything else raises AddressError."""
    try:
        address = ip_address(text)
    except ValueError as error:
        raise AddressError(f"{text[:80]!r} is no address") from error
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise AddressError(f"{text[:80]!r}: an address with a zone")
    return plain(address)


def parse_socket_address(text: str) -> tuple[IPAddress, int]:
    """Reads `ip:port` or `[ip]:port`; raises AddressError."""
    host, colon, digits = text.rpartition(":")
    if not colon or not digits.isascii() or not digits.isdigit() or len(digits) > 5:
        raise AddressError(f"{text[:80]!r} is no ip:port")
    port = int(digits)
    bracketed = host.startswith("[") and host.endswith("]")
    if not 0 < port <= MAX_PORT or (":" in host) != bracketed:
        raise AddressError(f"{text[:80]!r} is no ip:port")
    return parse_address(host[1:-1] if bracketed else host), port


def address_text(address: IPAddress) -> str:
    """The same as `str(address)`, in a third of the time for IPv4: each answer writes many."""
    if isinstance(address, IPv6Address):
        return str(address)
    number = int(address)
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def socket_address(address: IPAddress, port: int) -> str:
    """`ip:port`, with brackets around IPv6."""
    return f"[{address!s}]:{port}" if isinstance(address, IPv6Address) else f"{address_text(address)}:{port}"
