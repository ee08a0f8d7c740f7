"""Checks of AuthorizationPolicy and PeerAuthentication: whatever could match more than its author meant is an error."""

import re
from collections.abc import Callable, Iterator
from typing import Final

from control.kinds import AuthorizationPolicy, PeerAuthentication
from control.kinds.security import PolicyAction, PolicyCondition, PolicyFrom, PolicyRule, PolicyTo, Selector
from control.validation import values
from control.validation.core_checks import Path, attempt, label_remarks
from control.validation.finding import Remark, warning
from control.validation.path_templates import check_path

DRY_RUN: Final = "istio.io/dry-run"
L4_CONDITIONS: Final = frozenset(
    {"source.ip", "source.namespace", "source.principal", "source.serviceAccount", "destination.ip", "destination.port"}
)
_L7_CONDITIONS: Final = frozenset(
    {"remote.ip", "request.auth.principal", "request.auth.audiences", "request.auth.presenter", "connection.sni"}
)
_MAX_CHARACTERS: Final = 2048
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_L7_CONDITION_PREFIXES: Final = ("request.headers[", "request.auth.claims[", "experimental.envoy.filters.")


def peer_authentication_remarks(peer: PeerAuthentication, root_namespace: str) -> Iterator[Remark]:
    yield from selector_remarks(peer.spec.selector)
    if peer.spec.selector is not None and peer.metadata.namespace == root_namespace:
        hint = "leave the selector out for the whole mesh, or put the resource into the workload's namespace"
        yield Remark(("spec", "selector"), f"a selector does not work in the root namespace {root_namespace}", hint)
    for port, mtls in peer.spec.port_level_mtls.items():
        path: Path = ("spec", "portLevelMtls", port)
        yield from attempt(values.port_text, port, path)
        if peer.spec.selector is None:
            yield Remark(path, "modes of ports need a selector", "name the workloads by spec.selector.matchLabels")
        if mtls.mode == "DISABLE":
            yield warning(path, f"DISABLE of a single port is treated as PERMISSIVE: port {port[:10]} takes both")


def authorization_remarks(policy: AuthorizationPolicy) -> Iterator[Remark]:
    spec = policy.spec
    yield from selector_remarks(spec.selector)
    if spec.selector is not None and policy.for_waypoint:
        yield Remark(("spec", "selector"), "has both a selector and targetRefs", "keep one of them")
    if DRY_RUN in policy.metadata.annotations:
        yield from attempt(values.boolean, policy.metadata.annotations[DRY_RUN], ("metadata", "annotations", DRY_RUN))
    if spec.action is PolicyAction.DENY and not spec.rules:
        yield Remark(("spec",), "a DENY policy without rules has no effect", "write rules: [{}] to deny everything")
    for index, rule in enumerate(spec.rules):
        yield from rule_remarks(rule, policy.metadata.namespace, ("spec", "rules", index))


def selector_remarks(selector: Selector | None) -> Iterator[Remark]:
    """What is wrong with a policy's selector."""
    path: Path = ("spec", "selector")
    if selector is None:
        return
    if not selector.match_labels:
        yield Remark(path, "a selector without labels", "give it matchLabels, or leave it out to mean the whole namespace")
    yield from label_remarks(selector.match_labels, (*path, "matchLabels"))
    for key, value in selector.match_labels.items():
        if "*" in key + value:
            yield Remark((*path, "matchLabels", key), "wildcards do not work in selectors")


def rule_remarks(rule: PolicyRule, namespace: str, path: Path) -> Iterator[Remark]:
    """What is wrong with whom and what a rule matches."""
    for name, part in (("from", rule.sources), ("to", rule.operations), ("when", rule.conditions)):
        if part is not None and not part:
            yield Remark((*path, name), f"'{name}' is empty", "list something or remove it")
    for index, source in enumerate(rule.sources or ()):
        yield from _source_remarks(source, namespace, (*path, "from", index, "source"))
    for index, operation in enumerate(rule.operations or ()):
        yield from _operation_remarks(operation, (*path, "to", index, "operation"))
    for index, condition in enumerate(rule.conditions or ()):
        yield from _condition_remarks(condition, namespace, (*path, "when", index))


def _source_remarks(item: PolicyFrom, namespace: str, path: Path) -> Iterator[Remark]:
    source = item.source
    if not any(getattr(source, field) for field in source.__struct_fields__):
        yield Remark(path, "an empty source", "list something or remove it")
    yield from _list_remarks(principal, (*path, "principals"), source.principals)
    yield from _list_remarks(principal, (*path, "notPrincipals"), source.not_principals)
    yield from _list_remarks(pattern, (*path, "namespaces"), source.namespaces)
    yield from _list_remarks(pattern, (*path, "notNamespaces"), source.not_namespaces)
    yield from _list_remarks(values.block, (*path, "ipBlocks"), source.ip_blocks)
    yield from _list_remarks(values.block, (*path, "notIpBlocks"), source.not_ip_blocks)
    for name in ("request_principals", "not_request_principals"):
        yield from _list_remarks(bounded, (*path, name), getattr(source, name))
    for name, accounts in (("serviceAccounts", source.service_accounts), ("notServiceAccounts", source.not_service_accounts)):
        yield from _list_remarks(lambda text: values.service_account(text, namespace), (*path, name), accounts)
    by_account = source.service_accounts or source.not_service_accounts
    if by_account and (source.principals or source.not_principals or source.namespaces or source.not_namespaces):
        yield Remark(path, "service accounts don't go together with principals or namespaces", "use one of them")


def _operation_remarks(item: PolicyTo, path: Path) -> Iterator[Remark]:
    operation = item.operation
    if not any(getattr(operation, field) for field in operation.__struct_fields__):
        yield Remark(path, "an empty operation", "list something or remove it")
    yield from _list_remarks(values.port_text, (*path, "ports"), operation.ports)
    yield from _list_remarks(values.port_text, (*path, "notPorts"), operation.not_ports)
    yield from _list_remarks(check_path, (*path, "paths"), operation.paths)
    yield from _list_remarks(check_path, (*path, "notPaths"), operation.not_paths)
    for name in ("hosts", "not_hosts", "methods", "not_methods"):
        yield from _list_remarks(bounded, (*path, name), getattr(operation, name))


def _condition_remarks(condition: PolicyCondition, namespace: str, path: Path) -> Iterator[Remark]:
    key = condition.key
    if not condition.values and not condition.not_values:
        yield Remark(path, f"the condition on {key[:80]!r} has neither values nor notValues", "list some")
    check: Callable[[str], object]
    match key:
        case "source.ip" | "destination.ip":
            check = values.block
        case "destination.port":
            check = values.port_text
        case "source.serviceAccount":
            check = lambda text: values.service_account(text, namespace)  # noqa: E731 - one of four, as short as the others
        case "source.principal":
            check = principal
        case _:
            check = pattern
    yield from _list_remarks(check, (*path, "values"), condition.values)
    yield from _list_remarks(check, (*path, "notValues"), condition.not_values)
    if _CONTROL.search(key):
        yield Remark((*path, "key"), f"{key[:80]!r} has characters that no name has")
    if key not in L4_CONDITIONS | _L7_CONDITIONS and not key.startswith(_L7_CONDITION_PREFIXES):
        yield Remark((*path, "key"), f"unknown condition {key[:80]!r}", "one of " + ", ".join(sorted(L4_CONDITIONS)))


def _list_remarks(check: Callable[[str], object], path: Path, texts: tuple[str, ...]) -> Iterator[Remark]:
    for index, text in enumerate(texts):
        yield from attempt(check, text, (*path, index))
        if check in {principal, pattern} and "*" in text[1:-1]:
            yield warning((*path, index), f"{text[:80]!r}: a * inside is taken literally", "wildcards work at the beginning or the end")


def pattern(text: str) -> str:
    """A name, `prefix*`, `*suffix` or `*`."""
    if not text:
        raise ValueError("an empty value")
    return bounded(text)


def bounded(text: str) -> str:
    """A value of which an expression may be made that Envoy takes."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"a value of {len(text)} characters: at most {_MAX_CHARACTERS}")
    return text


def principal(text: str) -> str:
    """A pattern of SPIFFE ids, which policies write without the scheme."""
    if text.startswith("spiffe://"):
        raise ValueError(f"{text[:80]!r} can never match: principals are written without spiffe://")
    return pattern(text)
