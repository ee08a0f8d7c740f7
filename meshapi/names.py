"""The names of a namespace's services and what they stand for, as immutable values, and their protobuf form."""

from ipaddress import ip_address
from typing import Final

from google.protobuf.message import DecodeError
from msgspec import Struct

from meshapi.decoding import MAX_PORT, ModelError
from meshapi.proto import names_pb2 as pb
from meshapi.workload import IPAddress, ServiceKey, service_key

MAX_NAME: Final = 253
"""Characters of a name in DNS, without the dot at its end."""
_MAX_LABEL: Final = 63


class NamedPort(Struct, frozen=True):
    """`name` may be empty. `udp`: else of TCP. `target`: of UDP, where all endpoints have it, 0 if unknown; of TCP workloads say that."""

    number: int
    name: str = ""
    udp: bool = False
    target: int = 0


class Host(Struct, frozen=True):
    """What a name stands for: `addresses`, or those of the endpoints if there are none (headless)."""

    hostname: str
    """In lower case, without a dot at its end; the first label may be `*`."""
    addresses: tuple[IPAddress, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    private: bool = False
    """Only workloads of the namespace see it."""
    alias: str = ""
    """The name that it is another word for, if it is one."""


class Names(Struct, frozen=True):
    """All that a namespace defines. `domain` is the cluster's, such as `cluster.local`."""

    namespace: str
    domain: str
    hosts: tuple[Host, ...] = ()

    def key_of(self, host: Host) -> ServiceKey:
        return service_key(self.namespace, host.hostname)


def encode_names(names: Names) -> bytes:
    """Serializes the names, deterministically."""
    message = pb.Names(
        namespace=names.namespace,
        domain=names.domain,
        hosts=[
            pb.Host(
                hostname=host.hostname,
                addresses=[address.packed for address in host.addresses],
                ports=[pb.Port(number=port.number, name=port.name, udp=port.udp, target=port.target) for port in host.ports],
                private=host.private,
                alias=host.alias,
            )
            for host in names.hosts
        ],
    )
    return message.SerializeToString(deterministic=True)


def decode_names(body: bytes) -> Names:
    """Parses names; raises ModelError on what is malformed."""
    try:
        message = pb.Names.FromString(body)
    except DecodeError as error:
        raise ModelError(f"no Names: {error}") from error
    if not message.namespace:
        raise ModelError("names need a namespace")
    return Names(message.namespace, _name(message.domain), tuple(_host(host) for host in message.hosts))


def _host(message: pb.Host) -> Host:
    return Host(
        hostname=_name(message.hostname),
        addresses=tuple(_address(packed) for packed in message.addresses),
        ports=tuple(_port(port) for port in message.ports),
        private=message.private,
        alias=_name(message.alias) if message.alias else "",
    )


def _name(text: str) -> str:
    if not text.isascii() or len(text) > MAX_NAME or not all(0 < len(label) <= _MAX_LABEL for label in text.split(".")):
        raise ModelError(f"{text[:80]!r} is no name")
    return text.lower()


def _address(packed: bytes) -> IPAddress:
    if len(packed) not in {4, 16}:
        raise ModelError(f"an address of {len(packed)} bytes: must be 4 or 16")
    return ip_address(packed)


def _port(port: pb.Port) -> NamedPort:
    if not 0 < port.number <= MAX_PORT:
        raise ModelError(f"port {port.number}: must be 1 to {MAX_PORT}")
    if port.target > MAX_PORT:
        raise ModelError(f"port {port.target}: must be at most {MAX_PORT}")
    return NamedPort(port.number, port.name, port.udp, port.target)
