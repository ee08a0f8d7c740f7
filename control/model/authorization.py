"""AuthorizationPolicy as the policy that node agents enforce at layer 4.

What this layer can't evaluate never widens access: an ALLOW rule with such a part is left out, a DENY rule stays without that part.
"""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from msgspec import Struct

from control.kinds import AuthorizationPolicy
from control.kinds.security import PolicyAction, PolicyCondition, PolicyOperation, PolicyRule, PolicySource
from control.validation import values
from control.validation.policy_checks import DRY_RUN, L4_CONDITIONS
from meshapi.authorization import (
    Action,
    Clause,
    Exact,
    Match,
    Policy,
    PolicyScope,
    Prefix,
    Present,
    Rule,
    ServiceAccountMatch,
    StringMatch,
    Suffix,
)

T = TypeVar("T")
_L7_SOURCE: Final = {
    "remote_ip_blocks": "remoteIpBlocks",
    "not_remote_ip_blocks": "notRemoteIpBlocks",
    "request_principals": "requestPrincipals",
    "not_request_principals": "notRequestPrincipals",
}
_L7_OPERATION: Final = {
    "hosts": "hosts",
    "not_hosts": "notHosts",
    "methods": "methods",
    "not_methods": "notMethods",
    "paths": "paths",
    "not_paths": "notPaths",
}


class Converted(Struct, frozen=True):
    """The policy to enforce, None if it is not for this layer; `unenforceable` says what of it the layer does otherwise."""

    policy: Policy | None
    unenforceable: str = ""


def enforced_here(policy: AuthorizationPolicy) -> bool:
    """Whether node agents enforce it: not those for waypoints, nor those that only record."""
    return not policy.for_waypoint and policy.spec.action is not PolicyAction.AUDIT


def convert(policy: AuthorizationPolicy, root_namespace: str) -> Converted:
    """Translates a policy that passed the checks."""
    if policy.for_waypoint:
        return Converted(None)
    match policy.spec.action:
        case PolicyAction.AUDIT:
            return Converted(None, "AUDIT is not supported: nothing is recorded, and nothing denied")
        case PolicyAction.CUSTOM:
            note = "CUSTOM is not enforceable at L4: the selected workloads deny everything instead"
            return Converted(_policy(policy, root_namespace, Action.DENY, ((),)), note)
        case PolicyAction.DENY:
            action, consequence = Action.DENY, "the rules deny without regard to them, which is more than was asked for"
        case PolicyAction.ALLOW:
            action, consequence = Action.ALLOW, "the rules that use them allow nothing"
    found = sorted({field for rule in policy.spec.rules for field in _l7_fields(rule)})
    kept = [rule for rule in policy.spec.rules if action is Action.DENY or not _l7_fields(rule)]
    rules = tuple(_rule(rule, policy.metadata.namespace) for rule in kept)
    if action is Action.DENY:
        rules = tuple(_without_empty(rule) for rule in rules)
    note = f"not enforceable at L4: {', '.join(found)}; {consequence}" if found else ""
    return Converted(_policy(policy, root_namespace, action, rules), note)


def _policy(policy: AuthorizationPolicy, root_namespace: str, action: Action, rules: tuple[Rule, ...]) -> Policy:
    meta = policy.metadata
    if policy.spec.selector is not None:
        scope = PolicyScope.WORKLOAD_SELECTOR
    else:
        scope = PolicyScope.GLOBAL if meta.namespace == root_namespace else PolicyScope.NAMESPACE
    dry_run = DRY_RUN in meta.annotations and values.boolean(meta.annotations[DRY_RUN])
    return Policy(meta.name, meta.namespace, scope, action, rules, dry_run)


def _l7_fields(rule: PolicyRule) -> list[str]:
    found = [name for item in rule.sources or () for field, name in _L7_SOURCE.items() if getattr(item.source, field)]
    found += [name for item in rule.operations or () for field, name in _L7_OPERATION.items() if getattr(item.operation, field)]
    return found + [condition.key for condition in rule.conditions or () if condition.key not in L4_CONDITIONS]


def _rule(rule: PolicyRule, namespace: str) -> Rule:
    clauses: list[Clause] = []
    if rule.operations:
        clauses.append(tuple(_operation(item.operation) for item in rule.operations))
    if rule.sources:
        clauses.append(tuple(_source(item.source, namespace) for item in rule.sources))
    clauses += [(_condition(condition, namespace),) for condition in rule.conditions or () if condition.key in L4_CONDITIONS]
    return tuple(clauses)


def _without_empty(rule: Rule) -> Rule:
    """A DENY rule without the clauses that restrict nothing, being of layer 7 alone.

    They must not be sent: Istio's agents take an empty match for one that never holds, and would let everything in.
    """
    return tuple(clause for clause in rule if Match() not in clause)


def _operation(operation: PolicyOperation) -> Match:
    return Match(
        destination_ports=_each(values.port_text, operation.ports), not_destination_ports=_each(values.port_text, operation.not_ports)
    )


def _source(source: PolicySource, namespace: str) -> Match:
    def account(text: str) -> ServiceAccountMatch:
        return values.service_account(text, namespace)

    return Match(
        namespaces=_each(string_match, source.namespaces),
        not_namespaces=_each(string_match, source.not_namespaces),
        principals=_each(string_match, source.principals),
        not_principals=_each(string_match, source.not_principals),
        source_ips=_each(values.block, source.ip_blocks),
        not_source_ips=_each(values.block, source.not_ip_blocks),
        service_accounts=_each(account, source.service_accounts),
        not_service_accounts=_each(account, source.not_service_accounts),
    )


def _condition(condition: PolicyCondition, namespace: str) -> Match:
    wanted, unwanted = condition.values, condition.not_values
    match condition.key:
        case "source.namespace":
            return Match(namespaces=_each(string_match, wanted), not_namespaces=_each(string_match, unwanted))
        case "source.principal":
            return Match(principals=_each(string_match, wanted), not_principals=_each(string_match, unwanted))
        case "source.ip":
            return Match(source_ips=_each(values.block, wanted), not_source_ips=_each(values.block, unwanted))
        case "destination.ip":
            return Match(destination_ips=_each(values.block, wanted), not_destination_ips=_each(values.block, unwanted))
        case "destination.port":
            return Match(destination_ports=_each(values.port_text, wanted), not_destination_ports=_each(values.port_text, unwanted))
        case "source.serviceAccount":
            return Match(
                service_accounts=_each(lambda text: values.service_account(text, namespace), wanted),
                not_service_accounts=_each(lambda text: values.service_account(text, namespace), unwanted),
            )
    raise ValueError(f"{condition.key} is no condition of layer 4")


def string_match(text: str) -> StringMatch:
    """`*` is presence, `*suffix`, `prefix*`; anything else is literal, a `*` inside too."""
    if text == "*":
        return Present()
    if text.startswith("*"):
        return Suffix(text[1:])
    return Prefix(text[:-1]) if text.endswith("*") else Exact(text)


def _each(parse: Callable[[str], T], texts: Iterable[str]) -> tuple[T, ...]:
    return tuple(parse(text) for text in texts)
