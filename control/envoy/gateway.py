"""All that the Envoy of a gateway is served: a listener for each port, tables of routes, and tunnels to the clusters that they name."""

import msgspec

from control.envoy.built import CLUSTER, LISTENER, ROUTES, Built, Recipe
from control.envoy.gateways.listeners import listener_name, port_clusters, port_listener, port_problems, ports_of, route_table, tables
from control.envoy.listeners.tunnel import originate_cluster, originate_listener
from control.envoy.naming import ORIGINATE, ClusterRef
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey
from control.envoy.waypoint import asked_recipes, cluster_recipes
from control.envoy.world import World


def gateway_recipes(world: World, proxy: ProxyKey, listen: tuple[str, ...]) -> tuple[Recipe, ...]:
    """Everything, by type and name."""
    recipes = [Recipe(LISTENER, ORIGINATE, originate_listener), Recipe(CLUSTER, ORIGINATE, _tunnels, (proxy,))]
    clusters: dict[ClusterRef, None] = {}
    for port in world.ask(ports_of, proxy):
        place = Place(proxy, None, port.number)
        recipes.append(Recipe(LISTENER, listener_name(port.number), port_listener, (proxy, port.number, listen)))
        recipes += [Recipe(ROUTES, name, route_table, (proxy, name, servers)) for name, servers in tables(port)]
        recipes += world.ask(asked_recipes, place)
        clusters |= dict.fromkeys(world.ask(port_clusters, proxy, port))
    for ref in clusters:
        recipes += world.ask(cluster_recipes, proxy, ref)
    return tuple({(one.type_url, one.name): one for one in recipes}.values())


def _tunnels(world: World, proxy: ProxyKey) -> Built:
    """What is not served has no resource to be told with: it is told with this one, which is always there."""
    return msgspec.structs.replace(originate_cluster(world), problems=world.ask(port_problems, proxy))
