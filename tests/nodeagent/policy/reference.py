"""The evaluation of policies written straight from its definition, slowly, for the fast one to be compared with."""

from meshapi.authorization import Action, Clause, Exact, Match, Policy, PolicyScope, Prefix, Present, Rule, StringMatch, Suffix
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import IPAddress, Workload
from nodeagent.policy.compiled import Connection


def allowed(workload: Workload, policies: list[Policy], connection: Connection) -> bool:
    """Any matching DENY denies; then, if there is no ALLOW policy, allow; any matching ALLOW allows; else deny."""
    by_key = {policy.key: policy for policy in policies}
    if any(name not in by_key for name in workload.authorization_policies):
        return False
    in_play = [policy for policy in policies if _holds_for(policy, workload) and not policy.dry_run]
    if any(policy.action is Action.DENY and _policy(policy, connection) for policy in in_play):
        return False
    allows = [policy for policy in in_play if policy.action is Action.ALLOW]
    return not allows or any(_policy(policy, connection) for policy in allows)


def _holds_for(policy: Policy, workload: Workload) -> bool:
    if policy.key in workload.authorization_policies or policy.scope is PolicyScope.GLOBAL:
        return True
    return policy.scope is PolicyScope.NAMESPACE and policy.namespace == workload.namespace


def _policy(policy: Policy, connection: Connection) -> bool:
    return any(_rule(rule, connection, policy.action) for rule in policy.rules)


def _rule(rule: Rule, connection: Connection, action: Action) -> bool:
    return all(_clause(clause, connection, action) for clause in rule)


def _clause(clause: Clause, connection: Connection, action: Action) -> bool:
    return len(clause) == 0 or any(_match(match, connection, action) for match in clause)


def _match(match: Match, connection: Connection, action: Action) -> bool:
    if match == Match():
        return action is Action.DENY
    peer = connection.peer
    checks = [
        (match.namespaces, match.not_namespaces, lambda value: peer is not None and _string(value, peer.namespace)),
        (match.principals, match.not_principals, lambda value: peer is not None and _string(value, str(peer).removeprefix("spiffe://"))),
        (match.service_accounts, match.not_service_accounts, lambda value: _account(value.namespace, value.service_account, peer)),
        (match.source_ips, match.not_source_ips, lambda value: _inside(connection.source, value)),
        (match.destination_ips, match.not_destination_ips, lambda value: _inside(connection.destination, value)),
        (match.destination_ports, match.not_destination_ports, lambda value: value == connection.port),
    ]
    return all((not wanted or any(map(test, wanted))) and not any(map(test, unwanted)) for wanted, unwanted, test in checks)


def _string(match: StringMatch, text: str) -> bool:
    match match:
        case Exact(value):
            return text == value
        case Prefix(value):
            return text[: len(value)] == value
        case Suffix(value):
            return value == "" or text[-len(value) :] == value
        case Present():
            return text != ""


def _account(namespace: str, account: str, peer: WorkloadIdentity | None) -> bool:
    return peer is not None and peer.namespace == namespace and peer.service_account == account


def _inside(address: IPAddress, network: object) -> bool:
    return address in network  # type: ignore[operator]
