"""How a proxy knows who calls it, and whom it believes about others."""

from control.envoy.proxies import ProxyKey, ProxyKind, all_proxies, find_proxy
from control.envoy.rbac.parts import Callers, Identity
from control.envoy.world import World


def callers_of(world: World, key: ProxyKey) -> Callers:
    """How a proxy knows who calls: at a waypoint gateways are believed when they say whose requests they pass on, and nobody else."""
    proxy = world.ask(find_proxy, key)
    if proxy is not None and proxy.kind is ProxyKind.GATEWAY:
        return Callers(Identity.TLS)
    return Callers(Identity.TUNNEL, world.ask(_gateways))


def _gateways(world: World) -> tuple[str, ...]:
    found = (world.ask(find_proxy, key) for key in world.ask(all_proxies))
    return tuple(sorted(str(one.identity) for one in found if one is not None and one.kind is ProxyKind.GATEWAY))
