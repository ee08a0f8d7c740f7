"""Which secrets a proxy needs, and so may have: its own servers', and those by which rules of its own namespace have it call others.

A rule of another namespace may hold for its calls, too, but its secret stays there: whoever runs an Envoy can read what the Envoy is given.
"""

from control.envoy.clusters import service_cluster
from control.envoy.destinations.client_tls import credential
from control.envoy.destinations.rules import policy
from control.envoy.gateways.listeners import ports_of
from control.envoy.proxies import ProxyKey
from control.envoy.view import recipes
from control.envoy.world import World
from control.kinds.destination import TLSMode


def secrets_of(world: World, proxy: ProxyKey) -> frozenset[str]:
    """By their names in SDS."""
    terms = [server.terms for port in world.ask(ports_of, proxy) for server in port.servers if server.terms is not None]
    served = {name for one in terms for name in (*one.certificates, one.roots) if name}
    return frozenset(served | world.ask(_for_calls, proxy))


def _for_calls(world: World, proxy: ProxyKey) -> frozenset[str]:
    found: set[str] = set()
    for recipe in world.ask(recipes, proxy, ()):
        if recipe.translator is not service_cluster:
            continue
        rules = world.ask(policy, *recipe.args)
        if rules.tls is None or not rules.tls.credential_name or rules.namespace != proxy.namespace:
            continue
        name = credential(rules.namespace, rules.tls.credential_name)
        found |= {name} if rules.tls.mode is TLSMode.MUTUAL else set()
        found |= set() if rules.tls.insecure_skip_verify else {f"{name}-cacert"}
    return frozenset(found)
