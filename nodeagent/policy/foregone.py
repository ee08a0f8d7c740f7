"""Whether a connection is denied whoever comes and whatever port is asked for: all that can be known of a tunnel by its first packet.

Each part of a policy matches surely, surely not, or it depends; parts are combined so that a sure answer is never wrong.
"""

from collections.abc import Sequence
from enum import IntEnum

from meshapi.authorization import Action, Clause, IPNetwork, Match, Policy, Rule
from meshapi.workload import IPAddress
from nodeagent.policy.addresses import plain_network
from nodeagent.policy.compiled import CompiledPolicy


class Sure(IntEnum):
    """Ordered: AND is the least, OR the greatest."""

    NEVER = 0
    DEPENDS = 1
    ALWAYS = 2


def denial(policies: Sequence[CompiledPolicy], source: IPAddress, destination: IPAddress) -> tuple[str | None] | None:
    """The key of the policy that denies every identity and port, in a tuple (None in it: for want of an ALLOW); None if it depends.

    Addresses in plain form.
    """
    allows = [policy for policy in policies if policy.policy.action is Action.ALLOW]
    for policy in policies:
        if policy.policy.action is Action.DENY and _policy(policy.policy, source, destination) is Sure.ALWAYS:
            return (policy.key,)
    if allows and all(_policy(policy.policy, source, destination) is Sure.NEVER for policy in allows):
        return (None,)
    return None


def _policy(policy: Policy, source: IPAddress, destination: IPAddress) -> Sure:
    return max((_rule(rule, policy.action, source, destination) for rule in policy.rules), default=Sure.NEVER)


def _rule(rule: Rule, action: Action, source: IPAddress, destination: IPAddress) -> Sure:
    return min((_clause(clause, action, source, destination) for clause in rule), default=Sure.ALWAYS)


def _clause(clause: Clause, action: Action, source: IPAddress, destination: IPAddress) -> Sure:
    return max((_match(match, action, source, destination) for match in clause), default=Sure.ALWAYS)


def _match(match: Match, action: Action, source: IPAddress, destination: IPAddress) -> Sure:
    if match == Match():
        return Sure.NEVER if action is Action.ALLOW else Sure.ALWAYS
    if (
        (match.source_ips and not _inside(source, match.source_ips))
        or (match.destination_ips and not _inside(destination, match.destination_ips))
        or _inside(source, match.not_source_ips)
        or _inside(destination, match.not_destination_ips)
    ):
        return Sure.NEVER
    return Sure.DEPENDS if _asks_more(match) else Sure.ALWAYS


def _asks_more(match: Match) -> bool:
    """Whether it looks at the identity or the port."""
    return bool(
        match.namespaces
        or match.not_namespaces
        or match.principals
        or match.not_principals
        or match.service_accounts
        or match.not_service_accounts
        or match.destination_ports
        or match.not_destination_ports
    )


def _inside(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in plain_network(network) for network in networks)
