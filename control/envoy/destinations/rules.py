"""Which DestinationRules hold for a service at a proxy, and what they say of one port and subset.

The service's own namespace decides, then the root namespace, where it says nothing; of one namespace the most specific host, and several
rules for one host together: their subsets side by side, and the oldest one's policy.
"""

from typing import Any

from msgspec import Struct

from control.envoy.naming import ClusterRef
from control.envoy.proxies import ProxyKey, find_proxy
from control.envoy.routing.scope import exported, full_host
from control.envoy.world import World
from control.kinds import DestinationRule, ObjectKey
from control.kinds.destination import ClientTLS, ConnectionPool, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, TrafficPolicy
from control.validation.routing_checks import covering
from meshapi.workload import ServiceKey

_PARTS = ("load_balancer", "connection_pool", "outlier_detection", "tls")


class Policy(Struct, frozen=True):
    """What holds for one port of a service, or of one of its subsets. `sources` are the rules that say it."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLS | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None
    namespace: str = ""
    """Whose rules they are: secrets are named as that namespace may."""
    sources: tuple[ObjectKey, ...] = ()


class SubsetChoice(Struct, frozen=True):
    """Whether a subset is defined, and by which labels its endpoints are chosen."""

    labels: tuple[tuple[str, str], ...]


def policy(world: World, proxy: ProxyKey, ref: ClusterRef) -> Policy:
    """What holds for a cluster."""
    rules = [one for one in (_find(world, key) for key in world.ask(holding_rules, proxy, ref.service)) if one is not None]
    stated: dict[str, Any] = {}
    top = next((rule.spec.traffic_policy for rule in rules if rule.spec.traffic_policy is not None), None)
    subset = next((found for rule in rules if (found := rule.subset(ref.subset)) is not None), None) if ref.subset else None
    for part in (top, subset.traffic_policy if subset else None):
        if part is not None:
            _lay_over(stated, part, ref.port)
    namespace = rules[0].metadata.namespace if rules else ""
    return Policy(**stated, namespace=namespace, sources=tuple(rule.key for rule in rules))


def subset_choice(world: World, proxy: ProxyKey, ref: ClusterRef) -> SubsetChoice | None:
    """How the endpoints of a subset are chosen; None for one that no rule defines."""
    if not ref.subset:
        return SubsetChoice(())
    rules = (_find(world, key) for key in world.ask(holding_rules, proxy, ref.service))
    found = (rule.subset(ref.subset) for rule in rules if rule is not None)
    return next((SubsetChoice(tuple(sorted(one.labels.items()))) for one in found if one is not None), None)


def holding_rules(world: World, proxy: ProxyKey, service: ServiceKey) -> tuple[ObjectKey, ...]:
    """The rules for a service at a proxy, the one that comes first first."""
    namespace, _, hostname = service.partition("/")
    for whose in dict.fromkeys((namespace, world.settings.root_namespace)):
        for host in covering(hostname):
            found = tuple(key for key in world.ask(_rules_for, host) if key.namespace == whose and world.ask(_holds, proxy, key))
            if found:
                return found
    return ()


def rules_by_host(world: World) -> dict[str, tuple[ObjectKey, ...]]:
    """All rules by the whole host that they name, oldest first."""
    found: dict[str, list[ObjectKey]] = {}
    for rule in world.objects(DestinationRule):
        found.setdefault(full_host(rule.spec.host, rule.metadata.namespace, world.settings.domain), []).append(rule.key)
    return {host: tuple(keys) for host, keys in found.items()}


def _rules_for(world: World, host: str) -> tuple[ObjectKey, ...]:
    return world.ask(rules_by_host).get(host, ())


def _holds(world: World, proxy: ProxyKey, key: ObjectKey) -> bool:
    rule, found = _find(world, key), world.ask(find_proxy, proxy)
    if rule is None or found is None or not exported(rule.spec.export_to, key.namespace, proxy.namespace):
        return False
    selector = rule.spec.workload_selector
    if selector is None:
        return True
    # A rule with a selector is for clients of its own namespace that have these labels.
    return key.namespace == proxy.namespace and selector.match_labels.items() <= found.labels.items()


def _find(world: World, key: ObjectKey) -> DestinationRule | None:
    return world.find(DestinationRule, key.namespace, key.name)


def _lay_over(stated: dict[str, Any], part: TrafficPolicy, port: int) -> None:
    """What a policy says replaces what was said before; what it says of a port replaces all of it, also by saying nothing."""
    for name in (*_PARTS, "proxy_protocol", "retry_budget"):
        if getattr(part, name) is not None:
            stated[name] = getattr(part, name)
    own = next((one for one in part.port_level_settings if one.port.number == port), None)
    if own is not None:
        stated |= {name: getattr(own, name) for name in _PARTS}
