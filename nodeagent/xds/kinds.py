"""The types of resource that the agent asks for: how each is decoded, what it is called and which keys stand for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from meshapi.authorization import Policy, decode_policy
from meshapi.decoding import ModelError
from meshapi.discovery import Resource
from meshapi.names import Names, decode_names
from meshapi.trust import TrustBundle, decode_trust
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE, NAMES_TYPE, TRUST_TYPE
from meshapi.workload import NetworkMode, Service, Workload, address_key, decode_address

Value = Workload | Service | Policy | TrustBundle | Names


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of resource. On demand: only what was asked for by key is sent; else all of it."""

    type_url: str
    decode: Callable[[bytes], Value]
    on_demand: bool


KINDS: Final = (
    Kind(ADDRESS_TYPE, decode_address, on_demand=True),
    Kind(AUTHORIZATION_TYPE, decode_policy, on_demand=False),
    Kind(TRUST_TYPE, decode_trust, on_demand=False),
    Kind(NAMES_TYPE, decode_names, on_demand=False),
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A resource that was understood: decoded, and as it came (to be kept on disk and given back to `restore`)."""

    resource: Resource
    value: Value


def accept(kind: Kind, resource: Resource) -> Accepted:
    """Decodes a resource; raises ValueError if it is malformed or is not what it is called."""
    if resource.other_type is not None:
        raise ModelError(f"is of type {resource.other_type[:200]!r} in a response of {kind.type_url}")
    value = kind.decode(resource.body)
    if resource.name != name_of(value):
        # Versions and removals go by the resource's name, decisions by what is inside: two names for one thing would let them part.
        raise ModelError(f"is called {resource.name[:200]!r} but holds {name_of(value)[:200]!r}")
    return Accepted(resource, value)


def name_of(value: Value) -> str:
    """The primary key: removals come by it."""
    match value:
        case Workload():
            return value.uid
        case Service() | Policy():
            return value.key
        case TrustBundle():
            return value.trust_domain
        case Names():
            return value.namespace


def keys_of(accepted: Accepted) -> Iterator[str]:
    """The keys that stand for the resource itself."""
    yield accepted.resource.name
    yield from accepted.resource.aliases
    match accepted.value:
        case Workload() as workload:
            # That of a node is nobody's own, and asked for it stands for nothing: that is no word about those who share it.
            for address in workload.addresses if workload.network_mode is not NetworkMode.HOST_NETWORK else ():
                yield address_key(workload.network, address)
        case Service() as service:
            for virtual in service.addresses:
                yield virtual.key


def services_of(value: Value) -> tuple[str, ...]:
    """The services that a workload serves: who asks for one of them gets the workload too."""
    return tuple(value.services) if isinstance(value, Workload) else ()
