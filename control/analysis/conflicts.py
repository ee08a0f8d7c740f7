"""Rules of which only one can hold."""

from collections.abc import Iterator

from control.analysis.message import Level, Message, about
from control.analysis.references import host_key
from control.envoy.world import World
from control.kinds import DestinationRule, ObjectKey, VirtualService
from control.kinds.routing import MESH


def conflicting_hosts(world: World) -> Iterator[Message]:
    """Virtual services for one host inside of the mesh: the oldest holds, the others do nothing for it."""
    first: dict[str, ObjectKey] = {}
    for service in world.objects(VirtualService):
        if service.spec.gateways and MESH not in service.spec.gateways:
            continue
        for host in service.spec.hosts:
            full = host_key(host, service.metadata.namespace, world.settings.domain)
            winner = first.setdefault(full, service.key)
            if winner != service.key:
                hint = "make one of them, or let one delegate to the other"
                yield about(service.key, "IST0109", Level.ERROR, f"{winner} already has the host {full}, and is older", hint)


def conflicting_rules(world: World) -> Iterator[Message]:
    """Destination rules for one host in one namespace that both have a policy, or a subset of one name."""
    policies: dict[tuple[str, str], ObjectKey] = {}
    subsets: dict[tuple[str, str, str], ObjectKey] = {}
    for rule in world.objects(DestinationRule):
        if rule.spec.workload_selector is not None:
            continue
        namespace = rule.metadata.namespace
        host = host_key(rule.spec.host, namespace, world.settings.domain)
        if rule.spec.traffic_policy is not None and (winner := policies.setdefault((namespace, host), rule.key)) != rule.key:
            yield _rule(rule.key, f"{winner} already has a traffic policy for {host}, and is older")
        for subset in rule.spec.subsets:
            if (winner := subsets.setdefault((namespace, host, subset.name), rule.key)) != rule.key:
                yield _rule(rule.key, f"{winner} already has the subset {subset.name} of {host}, and is older")


def _rule(key: ObjectKey, what: str) -> Message:
    return about(key, "IST0137", Level.WARNING, what, "put them into one DestinationRule")
