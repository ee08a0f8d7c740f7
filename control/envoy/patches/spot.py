"""Where in an Envoy's configuration a patch may match: whose traffic it is, and by which names Istio's users know the place."""

from msgspec import Struct

from control.envoy.naming import INTERNAL, SNIFFING, Layer, chain_name
from control.envoy.place import Place
from control.envoy.proxies import Proxy, ProxyKind, find_proxy
from control.envoy.world import World
from control.kinds import ObjectKey
from meshapi.spiffe import IdentityError, WorkloadIdentity

PLAIN_NAMESPACE = ""
"""Whose the traffic is where no single namespace's is: only the root namespace patches it."""


class Spot(Struct, frozen=True):
    """`owner`: the namespace whose traffic passes; `target`: the service that it is for."""

    proxy: Proxy
    owner: str
    target: ObjectKey | None = None
    port: int = 0
    listeners: tuple[str, ...] = ()
    chain: str = ""
    server_names: tuple[str, ...] = ()


def spot_at(world: World, place: Place, chain: str = "", server_names: tuple[str, ...] = ()) -> Spot | None:
    """A chain of a place; unless it is named, that of its HTTP."""
    proxy = world.ask(find_proxy, place.proxy)
    if proxy is None:
        return None
    if proxy.kind is ProxyKind.GATEWAY:
        # What a gateway does is its own namespace's to say, whoever's hosts it serves.
        return Spot(proxy, proxy.namespace, None, place.port, (f"0.0.0.0_{place.port}",), chain, server_names)
    listeners = (INTERNAL, SNIFFING)
    service = world.service(place.service) if place.service is not None else None
    if service is None or place.service is None:
        return Spot(proxy, _namespace(chain), None, 0, listeners, chain)
    name = chain or chain_name(place.service, place.port, Layer.HTTP)
    return Spot(proxy, service.namespace, service.owner, place.port, listeners, name)


def _namespace(chain: str) -> str:
    """Of the workloads behind a chain for those that were dialled themselves."""
    try:
        return WorkloadIdentity.parse(chain.partition("|")[2]).namespace
    except IdentityError:
        return PLAIN_NAMESPACE
