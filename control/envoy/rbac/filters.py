"""The policies of one place as filters, in the order in which they judge: denials, then what is let in, beside them what is only noted.

What a place can't ask never widens: a rule of ALLOW with such a part lets nobody in, one of DENY denies without regard to it.
"""

from collections.abc import Iterable, Sequence
from typing import Any as Message
from typing import Final

from msgspec import Struct

from control.envoy.messages import new, packed
from control.envoy.rbac.matchers import PERMISSION, PRINCIPAL
from control.envoy.rbac.parts import Callers, Place, condition, operation, source
from control.kinds import AuthorizationPolicy
from control.kinds.security import PolicyAction, PolicyRule
from control.validation import values
from control.validation.policy_checks import DRY_RUN

HTTP_RBAC: Final = "envoy.filters.http.rbac"
NETWORK_RBAC: Final = "envoy.filters.network.rbac"
_HTTP_FILTER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
_HTTP_TYPE: Final = "envoy.extensions.filters.http.rbac.v3.RBAC"
_ROUTE_TYPE: Final = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
_NETWORK_TYPE: Final = "envoy.extensions.filters.network.rbac.v3.RBAC"
_ACTIONS: Final = ((PolicyAction.AUDIT, "LOG"), (PolicyAction.DENY, "DENY"), (PolicyAction.ALLOW, "ALLOW"))
"""With Envoy's names, in the order in which they judge."""
SEATS: Final = {action: f"{HTTP_RBAC}.{action.lower()}" for _, action in _ACTIONS}
"""The filters' names, where they are the same for whatever policies."""


class Judges(Struct, frozen=True):
    """Filters in their order, and of each policy (namespace/name) the parts that this place can't ask."""

    filters: tuple[Message, ...]
    unanswerable: tuple[tuple[str, tuple[str, ...]], ...]


class Ruled(Struct, frozen=True):
    """One policy: Envoy's policies by name, and the parts that could not be asked."""

    policies: dict[str, Message]
    left: tuple[str, ...]


class _Rules(Struct, frozen=True):
    """What is enforced, and what is on trial."""

    enforced: Message | None
    tried: Message | None


def http_judges(policies: Iterable[AuthorizationPolicy], callers: Callers) -> Judges:
    """Filters of requests. CUSTOM denies whatever its rules match: there is nobody to ask."""
    return _judges(policies, callers, requests=True)


def http_seats() -> tuple[Message, ...]:
    """The same filters for whatever policies: what they judge by comes with the routes (`route_judges`), so that policies that change
    change no filter, and close no connection. A request that has no route meets no judge, and nothing else."""
    return tuple(new(_HTTP_FILTER, name=name, typed_config=packed(new(_HTTP_TYPE))) for name in SEATS.values())


def sealed(filters: Iterable[Message]) -> tuple[Message, ...]:
    """The same filters, the last of the seats closed to requests without a route: what stands behind it could still give them one."""
    closed = new(_HTTP_FILTER, name=SEATS["ALLOW"], typed_config=packed(new(_HTTP_TYPE, rules={"action": "ALLOW"})))
    seat = packed(new(_HTTP_TYPE))
    return tuple(closed if one.name == SEATS["ALLOW"] and one.typed_config == seat else one for one in filters)


def route_judges(policies: Iterable[AuthorizationPolicy], callers: Callers) -> dict[str, Message]:
    """What the routes say to the filters of `http_seats`, as `typed_per_filter_config`: all that `http_judges` would judge by.

    A filter without anything to judge by is taken out of a request's way: it would cost a microsecond or two.
    """
    found, _ = _by_action(policies, callers, requests=True)
    judges = {action: new(_ROUTE_TYPE, rbac=new(_HTTP_TYPE, **_fields(action, rules))) for action, rules in found.items()}
    nothing = new("envoy.config.route.v3.FilterConfig", disabled=True)
    return {name: packed(judges.get(action, nothing)) for action, name in SEATS.items()}


def network_judges(policies: Iterable[AuthorizationPolicy], callers: Callers) -> Judges:
    """Filters of connections, for what is no HTTP."""
    return _judges(policies, callers, requests=False)


def ruled(policy: AuthorizationPolicy, callers: Callers, *, requests: bool) -> Ruled:
    """Envoy's policies of one policy: one of each rule that can match here."""
    meta = policy.metadata
    deny = policy.spec.action is not PolicyAction.ALLOW
    place = Place(callers, requests, deny, meta.namespace)
    found: dict[str, Message] = {}
    left: list[str] = []
    for index, rule in enumerate(policy.spec.rules):
        made, missing = rule_policy(rule, place)
        left += missing
        if not missing or deny:
            found[f"ns[{meta.namespace}]-policy[{meta.name}]-rule[{index}]"] = made
    return Ruled(found, tuple(dict.fromkeys(left)))


def _judges(policies: Iterable[AuthorizationPolicy], callers: Callers, *, requests: bool) -> Judges:
    found, unanswerable = _by_action(policies, callers, requests=requests)
    return Judges(tuple(_filter(_fields(action, rules), requests=requests) for action, rules in found.items()), unanswerable)


def _by_action(
    policies: Iterable[AuthorizationPolicy], callers: Callers, *, requests: bool
) -> tuple[dict[str, _Rules], tuple[tuple[str, tuple[str, ...]], ...]]:
    """By Envoy's name of an action, in the order in which they judge; and the parts of policies that this place can't ask."""
    ordered = sorted(policies, key=lambda policy: (policy.metadata.namespace, policy.metadata.name))
    found: dict[str, _Rules] = {}
    unanswerable: list[tuple[str, tuple[str, ...]]] = []
    for action, envoys in _ACTIONS:
        enforced: list[Ruled] = []
        tried: list[Ruled] = []
        for policy in (one for one in ordered if _judged_as(one) is action):
            rules = ruled(policy, callers, requests=requests)
            (tried if _is_dry_run(policy) else enforced).append(rules)
            if rules.left:
                unanswerable.append((f"{policy.metadata.namespace}/{policy.metadata.name}", rules.left))
        if enforced or tried:
            found[envoys] = _Rules(_rules(envoys, enforced), _rules(envoys, tried))
    return found, tuple(unanswerable)


def rule_policy(rule: PolicyRule, place: Place) -> tuple[Message, list[str]]:
    """Envoy's policy that matches as a rule does, and the parts of the rule that the place can't ask."""
    left: list[str] = []
    permissions, principals = [], []
    if rule.operations:
        asked = [operation(item.operation, place) for item in rule.operations]
        permissions.append(PERMISSION.any_of([one for one, _ in asked]))
        left += [name for _, names in asked for name in names]
    if rule.sources:
        sources = [source(item.source, place) for item in rule.sources]
        principals.append(PRINCIPAL.any_of([one for one, _ in sources]))
        left += [name for _, names in sources for name in names]
    for item in rule.conditions or ():
        wanted = condition(item, place)
        if wanted is None:
            left.append(item.key)
        else:
            permissions += wanted[0]
            principals += wanted[1]
    made = new("envoy.config.rbac.v3.Policy", permissions=[PERMISSION.all_of(permissions)], principals=[PRINCIPAL.all_of(principals)])
    return made, left


def _rules(action: str, of_policies: Sequence[Ruled]) -> Message | None:
    """None without policies. ALLOW with policies and no rule that can match lets nobody in."""
    if not of_policies:
        return None
    merged = {name: policy for one in of_policies for name, policy in one.policies.items()}
    return new("envoy.config.rbac.v3.RBAC", action=action, policies=merged)


def _fields(action: str, rules: _Rules) -> dict[str, object]:
    """The fields of Envoy's RBAC, of requests and of connections alike."""
    prefix = f"istio_dry_run_{action.lower()}_"
    shadow = {"shadow_rules": rules.tried, "shadow_rules_stat_prefix": prefix} if rules.tried is not None else {}
    return {**shadow, **({"rules": rules.enforced} if rules.enforced is not None else {})}


def _filter(fields: dict[str, object], *, requests: bool) -> Message:
    if requests:
        return new(_HTTP_FILTER, name=HTTP_RBAC, typed_config=packed(new(_HTTP_TYPE, **fields)))
    config = packed(new(_NETWORK_TYPE, stat_prefix="tcp.", **fields))
    return new("envoy.config.listener.v3.Filter", name=NETWORK_RBAC, typed_config=config)


def _judged_as(policy: AuthorizationPolicy) -> PolicyAction:
    return PolicyAction.DENY if policy.spec.action is PolicyAction.CUSTOM else policy.spec.action


def _is_dry_run(policy: AuthorizationPolicy) -> bool:
    annotations = policy.metadata.annotations
    return DRY_RUN in annotations and values.boolean(annotations[DRY_RUN])
