"""Which secrets a gateway needs, and so may have: those of its servers, and nobody else's."""

from control.envoy.gateways.listeners import ports_of
from control.envoy.proxies import ProxyKey
from control.envoy.world import World


def secrets_of(world: World, proxy: ProxyKey) -> frozenset[str]:
    """By their names in SDS."""
    terms = [server.terms for port in world.ask(ports_of, proxy) for server in port.servers if server.terms is not None]
    return frozenset(name for one in terms for name in (*one.certificates, one.roots) if name)
