"""The TCP and TLS routes that a VirtualService makes at a place: which clusters connections go to, by port, destination or server name."""

from ipaddress import ip_network
from typing import Any

from msgspec import Struct

from control.envoy.built import Problem
from control.envoy.destinations.hashing import hashed_by_source
from control.envoy.destinations.rules import policy
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef, Layer
from control.envoy.parts import extension, seconds
from control.envoy.routing.destinations import find_target
from control.envoy.routing.http_matches import applies
from control.envoy.routing.scope import Scope, Target
from control.envoy.world import World
from control.kinds import ObjectKey, VirtualService
from control.kinds.routing import L4Destination, L4Match, TLSMatch
from control.validation import values
from control.validation.durations import seconds as duration
from meshapi.workload import IPAddress


class Carried(Struct, frozen=True):
    """The network filter that carries connections to clusters. `server_names`: for which of TLS alone; none = for all."""

    filter: Message
    clusters: tuple[ClusterRef, ...]
    server_names: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def tcp_rule(world: World, scope: Scope, key: ObjectKey, addresses: tuple[IPAddress, ...]) -> Carried | None:
    """The first TCP route that holds for connections to these addresses at a port; None where the rule says nothing of them."""
    service = world.find(VirtualService, key.namespace, key.name)
    problems: list[Problem] = []
    for route in service.spec.tcp if service is not None else ():
        if not route.match or any(_holds(one, scope, key, addresses, problems) for one in route.match):
            return _carried(world, scope, key, route.route, problems=tuple(problems))
    return None


def tls_rules(world: World, scope: Scope, key: ObjectKey, addresses: tuple[IPAddress, ...] = ()) -> tuple[Carried, ...]:
    """The TLS routes of a rule in their order, each for the server names of its conditions."""
    service = world.find(VirtualService, key.namespace, key.name)
    found: list[Carried] = []
    taken: set[str] = set()
    for route in service.spec.tls if service is not None else ():
        problems: list[Problem] = []
        holding = [one for one in route.match if _holds(one, scope, key, addresses, problems)]
        names = tuple(name for name in dict.fromkeys(name for one in holding for name in one.sni_hosts) if name not in taken)
        taken.update(names)
        if names:
            found.append(_carried(world, scope, key, route.route, names, tuple(problems)))
    return tuple(found)


def carrier(world: World, scope: Scope, targets: list[tuple[Target, int]]) -> Message:
    """The filter for destinations with their shares."""
    fields: dict[str, Any] = {"stat_prefix": targets[0][0].name, "cluster": targets[0][0].name}
    if len(targets) > 1:
        fields.pop("cluster")
        fields["weighted_clusters"] = {"clusters": [{"name": target.name, "weight": weight} for target, weight in targets]}
    refs = [target.cluster for target, _ in targets if target.cluster is not None]
    if any(hashed_by_source(world, scope.proxy, ref) for ref in refs):
        fields["hash_policy"] = [{"source_ip": {}}]
    pool = world.ask(policy, scope.proxy, refs[0]).connection_pool if refs else None
    if pool is not None and pool.tcp is not None and pool.tcp.idle_timeout:
        fields["idle_timeout"] = seconds(duration(pool.tcp.idle_timeout))
    if pool is not None and pool.tcp is not None and pool.tcp.max_connection_duration:
        fields["max_downstream_connection_duration"] = seconds(duration(pool.tcp.max_connection_duration))
    return new("envoy.config.listener.v3.Filter", **extension("tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy", **fields))


def _carried(
    world: World,
    scope: Scope,
    key: ObjectKey,
    route: tuple[L4Destination, ...],
    names: tuple[str, ...] = (),
    problems: tuple[Problem, ...] = (),
) -> Carried:
    stated = [one for one in route if one.weight or len(route) == 1]
    targets = [(find_target(world, scope, key.namespace, one.destination, Layer.TCP), one.weight) for one in stated]
    told = (*problems, *(Problem(key, target.problem) for target, _ in targets if target.problem))
    clusters = tuple(dict.fromkeys(target.cluster for target, _ in targets if target.cluster is not None))
    return Carried(carrier(world, scope, targets), clusters, names, told)


def _holds(match: L4Match | TLSMatch, scope: Scope, key: ObjectKey, addresses: tuple[IPAddress, ...], problems: list[Problem]) -> bool:
    unknown = bool(match.source_namespace or match.source_labels)
    if unknown or (isinstance(match, L4Match) and match.source_subnet):
        problems.append(Problem(key, "whose a connection is can't be asked of TCP here: a route that depends on it is left out"))
        return False
    if match.destination_subnets:
        blocks = [values.block(text) for text in match.destination_subnets]
        if not addresses or not all(any(_inside(address, block) for block in blocks) for address in addresses):
            return False
    return applies(match, scope, key.namespace)


def _inside(address: IPAddress, block: Any) -> bool:
    return address.version == block.version and ip_network(address).subnet_of(block)
