"""A pair of network devices that joins two namespaces, for trials: both ends go with either namespace."""

import ipaddress
import socket
import struct
from typing import Final

from nodeagent.linux.rtnetlink import Kind, RouteSocket, encode_attributes

_LINK: Final = struct.Struct("=BxHiII")
"""family, type, interface, flags, which flags to change."""
_ADDRESS: Final = struct.Struct("=4BI")
"""family, prefix length, flags, scope; interface."""
_IFF_UP: Final = 1
_IFLA_NAME: Final = 3
_IFLA_LINK_INFO: Final = 18
_IFLA_NAMESPACE_DESCRIPTOR: Final = 28
_INFO_KIND: Final = 1
_INFO_DATA: Final = 2
_VETH_PEER: Final = 1
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_NO_DUPLICATE_DETECTION: Final = 0x02


def join(name: str, other: int) -> None:
    """Makes a pair of this name here, and in the namespace that the descriptor `other` is of. Raises KernelError."""
    there = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + encode_attributes(
        {_IFLA_NAME: name.encode() + b"\0", _IFLA_NAMESPACE_DESCRIPTOR: struct.pack("=I", other)}
    )
    info = encode_attributes({_INFO_KIND: b"veth", _INFO_DATA: encode_attributes({_VETH_PEER: there})})
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + encode_attributes({_IFLA_NAME: name.encode() + b"\0", _IFLA_LINK_INFO: info})
    with RouteSocket(f"pair of devices {name}") as link:
        link.create(Kind.NEW_LINK, body)


def configure(name: str, *addresses: str) -> None:
    """Brings a device of this namespace up with addresses, each as `192.0.2.1/24`, that can be used at once. Raises KernelError."""
    index = socket.if_nametoindex(name)
    with RouteSocket(f"device {name}") as link:
        for one in map(ipaddress.ip_interface, addresses):
            family = socket.AF_INET6 if one.version == 6 else socket.AF_INET
            fixed = _ADDRESS.pack(family, one.network.prefixlen, _NO_DUPLICATE_DETECTION if one.version == 6 else 0, 0, index)
            link.create(Kind.NEW_ADDRESS, fixed + encode_attributes({_IFA_LOCAL: one.packed, _IFA_ADDRESS: one.packed}))
        link.change(Kind.SET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP))
