"""Parses the values that appear in resources; each function raises ValueError with what is wrong.

The checks and the translation use the same functions, so what was accepted can be translated.
"""

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from meshapi.authorization import IPNetwork, ServiceAccountMatch
from meshapi.decoding import MAX_PORT
from meshapi.spiffe import IdentityError, check_segment
from meshapi.workload import IPAddress, Locality

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z", re.ASCII)
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z", re.ASCII)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z", re.ASCII)
_BLOCK = re.compile(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?\Z", re.ASCII)
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z", re.ASCII)
_RESERVED: Final[tuple[tuple[str, IPNetwork], ...]] = (
    ("loopback", IPv4Network("127.0.0.0/8")),
    ("loopback", IPv6Network("::1/128")),
    ("unspecified", IPv4Network("0.0.0.0/8")),
    ("unspecified", IPv6Network("::/128")),
    ("link-local (where clouds serve metadata)", IPv4Network("169.254.0.0/16")),
    ("link-local", IPv6Network("fe80::/10")),
    ("multicast", IPv4Network("224.0.0.0/4")),
    ("multicast", IPv6Network("ff00::/8")),
    ("broadcast", IPv4Network("255.255.255.255/32")),
    ("a cloud's metadata", IPv4Network("100.100.100.200/32")),
    ("a cloud's metadata", IPv6Network("fd00:ec2::/32")),
    ("an embedded IPv4", IPv6Network("::ffff:0:0/96")),
)
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


def label_name(text: str) -> str:
    """A DNS label: a namespace's or a service's name."""
    if not _LABEL.match(text):
        raise ValueError(f"{text[:80]!r} is no DNS label: lower-case letters, digits and -, at most 63")
    return text


def object_name(text: str) -> str:
    """An object's name, a DNS subdomain."""
    if not _SUBDOMAIN.match(text):
        raise ValueError(f"{text[:80]!r} is no name: lower-case letters, digits, - and ., at most 253")
    return text


def label_key(text: str) -> str:
    if not _LABEL_KEY.match(text):
        raise ValueError(f"{text[:80]!r} is no label key")
    return text


def label_value(text: str) -> str:
    if not _LABEL_VALUE.match(text):
        raise ValueError(f"{text[:80]!r} is no label value: letters, digits, - _ and ., at most 63")
    return text


def timestamp(text: str) -> str:
    """A moment as the API server writes it, so that text order is time order."""
    if not _TIMESTAMP.match(text):
        raise ValueError(f"{text[:40]!r} is no timestamp like 2030-01-31T12:00:00Z")
    return text


def boolean(text: str) -> bool:
    """The words that Istio takes for true and false in annotations."""
    if text not in _TRUE | _FALSE:
        raise ValueError(f"{text[:40]!r} is neither true nor false")
    return text in _TRUE


def segment(text: str) -> str:
    """A name that goes into a SPIFFE id."""
    try:
        return check_segment(text)
    except IdentityError as error:
        raise ValueError(str(error)) from error


def port_number(number: int) -> int:
    if not 0 < number <= MAX_PORT:
        raise ValueError(f"{number} is no port: 1 to {MAX_PORT}")
    return number


def port_text(text: str) -> int:
    """A port written as text."""
    if not _PORT.match(text):
        raise ValueError(f"{text[:40]!r} is no port: 1 to {MAX_PORT}")
    return port_number(int(text))


def address(text: str) -> IPAddress:
    """One IP address, without zone."""
    if "%" in text:
        raise ValueError(f"{text[:80]!r}: an address must not have a zone")
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no IP address") from None


HANDED_OUT: Final = (IPv4Network("240.240.0.0/16"), IPv6Network("2001:2::/48"))
"""The ranges that the mesh gives addresses from to hosts without any; Istio's. Nobody may state one."""


def is_handed_out(ip: IPAddress) -> bool:
    """Whether an address is of those ranges."""
    return any(ip in block for block in HANDED_OUT)


def serving_address(text: str) -> IPAddress:
    """An address that a workload or service may claim."""
    ip = address(text)
    for what, block in _RESERVED:
        if ip.version == block.version and ip in block:
            raise ValueError(f"{ip} is {what} and can't be claimed")
    return ip


def single_address(text: str) -> IPAddress:
    """An address to serve, also when it is written as a block of one."""
    ip, slash, bits = text.partition("/")
    parsed = serving_address(ip)
    if slash and bits != str(parsed.max_prefixlen):
        raise ValueError(f"{text[:80]!r} is a block; list single addresses")
    return parsed


def block(text: str) -> IPNetwork:
    """An address or CIDR block of a policy. Only a prefix length counts as mask: readers differ about other notations."""
    if not _BLOCK.match(text):
        raise ValueError(f"{text[:80]!r} is no IP address or CIDR block")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no IP address or CIDR block") from None
    if isinstance(network.network_address, IPv6Address) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{text[:80]!r} embeds an IPv4 address; write it as IPv4")
    return network


def service_account(text: str, namespace: str) -> ServiceAccountMatch:
    """`<service account>` of the policy's own namespace, or `<namespace>/<service account>`; no wildcards."""
    head, slash, tail = text.partition("/")
    match = ServiceAccountMatch(head, tail) if slash else ServiceAccountMatch(namespace, head)
    try:
        object_name(match.service_account)
        label_name(match.namespace)
    except ValueError:
        raise ValueError(
            f"{text[:80]!r} is neither <service account> nor <namespace>/<service account>; wildcards do not work here"
        ) from None
    return match


_OWN_NAMES: Final = frozenset(("localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"))
"""Of loopback, as files of hosts (`/etc/hosts`) have them."""


def host(text: str) -> str:
    """A host name of a ServiceEntry: a DNS name, its first label may be `*`."""
    name = text.removeprefix("*.")
    if not _SUBDOMAIN.match(name) or not all(_LABEL.match(label) for label in name.split(".")):
        raise ValueError(f"{text[:80]!r} is no host name: a DNS name in lower case, with *. only in front")
    if _NUMBER.match(name.rpartition(".")[2]):
        raise ValueError(f"{text[:80]!r} is no host name: resolvers take a number at the end for an address")
    if name in _OWN_NAMES or name.endswith(".localhost"):
        raise ValueError(f"{text[:80]!r} is each machine's own name and can't be defined")
    return text


def locality(text: str) -> Locality:
    """`region/zone/subzone`, of which the last ones may be missing."""
    parts = text.split("/")
    if len(parts) > 3:
        raise ValueError(f"{text[:80]!r} is no locality: region/zone/subzone")
    return Locality(*parts)
