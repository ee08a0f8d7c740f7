"""Which on-demand keys a resource has to do with: those that name it, and those of the services it serves."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from control.resources import Resource, TypeURL
from meshapi import wire
from meshapi.decoding import ModelError
from meshapi.workload import NetworkMode, Service, Workload, address_key, decode_address, decode_alone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys:
    """`aliases` name the resource beside its primary key; `serves` are the services that it is a member of."""

    aliases: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()


NO_KEYS = Keys()


@lru_cache(maxsize=8192)
def keys_of(type_url: TypeURL, resource: Resource) -> Keys:
    """Reads the keys from the resource itself, so that they can't differ from what is sent."""
    if type_url not in {wire.ADDRESS_TYPE, wire.WORKLOAD_TYPE}:
        return NO_KEYS
    try:
        address = decode_address(resource.body) if type_url == wire.ADDRESS_TYPE else decode_alone(resource.body)
    except ModelError as error:
        log.error("resource %s of the model can't be read back: %s", resource.name, error)  # noqa: TRY400 -- ours, and said in full
        return NO_KEYS
    match address:
        case Workload():
            # A node's address, or one of an opaque endpoint, is not its own, nor is it found by it.
            own = address.addresses if address.network_mode is not NetworkMode.HOST_NETWORK else ()
            return Keys(tuple(address_key(address.network, ip) for ip in own), tuple(address.services))
        case Service():
            return Keys(tuple(one.key for one in address.addresses))


Touched = Mapping[str, Collection[str]]
"""Names that changed, each with the keys (its own, its services') whose meaning may have changed with it."""
