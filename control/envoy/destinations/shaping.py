"""The Shaper of DestinationRules: what they say of a cluster goes into it; and the limits that hold where they say nothing."""

from control.envoy.destinations.balancing import balance
from control.envoy.destinations.client_tls import Transport, secure
from control.envoy.destinations.pools import limit, set_aside, speak
from control.envoy.destinations.rules import policy
from control.envoy.messages import Message
from control.envoy.naming import ClusterRef
from control.envoy.proxies import ProxyKey
from control.envoy.world import World
from control.kinds import ObjectKey
from control.kinds.destination import ConnectionPool


def shape_by_rules(world: World, proxy: ProxyKey, ref: ClusterRef, cluster: Message) -> tuple[ObjectKey, ...]:
    """Changes a cluster that was just made; returns the rules that it follows."""
    found = world.ask(policy, proxy, ref)
    pool = found.connection_pool or ConnectionPool()
    limit(cluster, pool, found.retry_budget)
    speak(cluster, pool)
    if found.load_balancer is not None:
        balance(cluster, found.load_balancer)
    if found.outlier_detection is not None:
        set_aside(cluster, found.outlier_detection)
    service = world.service(ref.service)
    secure(cluster, Transport(found, world.settings, ref, service.subject_alt_names if service is not None else ()))
    return found.sources
