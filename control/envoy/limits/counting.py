"""Which requests a rule counts, and apart from each other by what: Envoy's rate limit actions, each of which adds an entry to a descriptor.

A request lacks no entry that it could leave out: without a header, a claim or an identity it is counted with all others that lack it.
"""

from typing import Any, Final

from msgspec import Struct

from control.envoy.filter_parts import Parts
from control.envoy.limits.client_code import client_code
from control.envoy.messages import Message, new
from control.envoy.parts import PEER, extension
from control.envoy.rbac.filters import HTTP_RBAC, rule_policy
from control.envoy.rbac.matchers import JWT_FILTER, JWT_PAYLOAD
from control.envoy.rbac.parts import Callers, Identity, Place
from control.kinds import RateLimit
from control.kinds.rate_limits import RateLimitRule
from control.validation.rate_limit_checks import Counted, CountKey, count_key

RULE: Final = "rule"
"""The entry that says which rule it is."""
NAME: Final = "nodemesh.rate_limits"
"""How all filters of limits are named. Envoy's usual names would give them the settings that routes may have for filters of that name."""
_FILTER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
_NAMESPACE: Final = "namespace"
_ADDRESS: Final = "address"
_NONE: Final = "-"
_LONGEST: Final = 512
"""Of headers and paths, in characters."""


class CountedRule(Struct, frozen=True):
    """A rule: the actions that make the entries of its descriptor, and the keys of those with a value of the request."""

    name: str
    rule: RateLimitRule
    actions: tuple[dict[str, Any], ...]
    keys: tuple[str, ...]


def counted_rules(item: RateLimit, callers: Callers) -> tuple[CountedRule, ...]:
    """Each rule of a RateLimit."""
    found = []
    for index, rule in enumerate(item.spec.rules):
        name = rule_name(item, index)
        which = _matched(name) if _matches_some(rule) else {"generic_key": {"descriptor_key": RULE, "descriptor_value": name}}
        keys = [count_key(text) for text in rule.by]
        entries = [_entry(f"{number}", key, callers.identity) for number, key in enumerate(keys)]
        found.append(CountedRule(name, rule, (which, *(action for _, action in entries)), tuple(key for key, _ in entries)))
    return tuple(found)


def noting_parts(items: tuple[RateLimit, ...], callers: Callers) -> Parts:
    """Filters ahead of those that limit, which note of a request what descriptors need."""
    found: list[Message] = []
    for item in items:
        for index, rule in enumerate(item.spec.rules):
            if _matches_some(rule):
                found.append(_noting(item, index, callers))
    keys = {count_key(text).of for item in items for rule in item.spec.rules for text in rule.by}
    if keys & {Counted.NAMESPACE, Counted.ADDRESS}:
        code = client_code(callers, NAME, _NAMESPACE, _ADDRESS)
        found.append(new(_FILTER, **extension(NAME, "filters.http.lua.v3.Lua", default_source_code={"inline_string": code})))
    return Parts(tuple(found))


def rule_name(item: RateLimit, index: int) -> str:
    return f"{item.metadata.namespace}/{item.metadata.name}/{index}"


def _matches_some(rule: RateLimitRule) -> bool:
    return bool(rule.sources or rule.operations or rule.conditions)


def _noting(item: RateLimit, index: int, callers: Callers) -> Message:
    """RBAC that enforces nothing, and notes whether the rule matches."""
    name = rule_name(item, index)
    # What is not quite sure counts.
    policy, _ = rule_policy(item.spec.rules[index], Place(callers, requests=True, deny=True, namespace=item.metadata.namespace))
    shadow = new("envoy.config.rbac.v3.RBAC", action="DENY", policies={name: policy})
    return new(_FILTER, **extension(NAME, "filters.http.rbac.v3.RBAC", shadow_rules=shadow, shadow_rules_stat_prefix=_prefix(name)))


def _matched(name: str) -> dict[str, Any]:
    noted = {"key": HTTP_RBAC, "path": [{"key": f"{_prefix(name)}shadow_effective_policy_id"}]}
    return {"metadata": {"descriptor_key": RULE, "metadata_key": noted, "source": "DYNAMIC"}}


def _prefix(name: str) -> str:
    return f"nodemesh_limit_{name}_"


def _entry(number: str, key: CountKey, identity: Identity) -> tuple[str, dict[str, Any]]:
    """The key of an entry, and the action that adds it."""
    match key.of:
        case Counted.ADDRESS:
            return number, _metadata(number, NAME, (_ADDRESS,))
        case Counted.CLAIM:
            return number, _metadata(number, JWT_FILTER, (JWT_PAYLOAD, *key.names))
        case Counted.NAMESPACE:
            return number, _metadata(number, NAME, (_NAMESPACE,))
        case Counted.HEADER:
            name = f'"{key.names[0]}"'
            return number, _expression(number, f"{name} in request.headers ? {_bounded(f'request.headers[{name}]')} : ''")
        case Counted.PATH:
            return number, _expression(number, f"has(request.url_path) ? {_bounded('request.url_path')} : ''")
        case Counted.PRINCIPAL if identity is Identity.TUNNEL:
            return number, _expression(number, f"'{PEER}' in filter_state ? filter_state['{PEER}'] : ''")
        case Counted.PRINCIPAL:
            certificate = "connection.uri_san_peer_certificate"
            return number, _expression(number, f"has({certificate}) ? {certificate} : ''")


def _bounded(text: str) -> str:
    """A value that its sender chooses; those that are longer are one: Envoy keeps the values that it counts apart."""
    return f"(size({text}) > {_LONGEST} ? 'long' : {text})"


def _metadata(key: str, namespace: str, path: tuple[str, ...]) -> dict[str, Any]:
    steps = [{"key": step} for step in path]
    found = {"descriptor_key": key, "metadata_key": {"key": namespace, "path": steps}, "source": "DYNAMIC", "default_value": _NONE}
    return {"metadata": found}


def _expression(key: str, text: str) -> dict[str, Any]:
    """Of Envoy's attributes, in CEL."""
    made = extension("envoy.rate_limit_descriptors.expr", "rate_limit_descriptors.expr.v3.Descriptor", descriptor_key=key, text=text)
    return {"extension": made}
