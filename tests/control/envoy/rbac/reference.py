"""What AuthorizationPolicy means for requests, written as its documentation says it, without regard to speed or to Envoy."""

import re
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from control.kinds import AuthorizationPolicy
from control.kinds.security import PolicyAction, PolicyOperation, PolicyRule, PolicySource


@dataclass(frozen=True)
class Request:
    method: str = "GET"
    path: str = "/"
    host: str = "shop.test"
    peer: str = ""
    issuer: str = ""
    subject: str = ""
    groups: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def wire_headers(self) -> list[tuple[str, str]]:
        token = [("x-test-iss", self.issuer), ("x-test-sub", self.subject), ("x-test-groups", ";".join(self.groups))] if self.issuer else []
        peer = [("x-test-peer", self.peer)] if self.peer else []
        return [("host", self.host), *peer, *token, *self.headers]


def allowed(policies: list[AuthorizationPolicy], request: Request) -> bool:
    denying = [one for one in policies if one.spec.action in {PolicyAction.DENY, PolicyAction.CUSTOM}]
    allowing = [one for one in policies if one.spec.action is PolicyAction.ALLOW]
    if any(_policy(one, request) for one in denying):
        return False
    return not allowing or any(_policy(one, request) for one in allowing)


def _policy(policy: AuthorizationPolicy, request: Request) -> bool:
    deny = policy.spec.action is not PolicyAction.ALLOW
    return any(_rule(rule, request, policy.metadata.namespace, deny=deny) for rule in policy.spec.rules)


def _rule(rule: PolicyRule, request: Request, namespace: str, *, deny: bool) -> bool:
    if rule.sources is not None and not any(_source(item.source, request, namespace) for item in rule.sources):
        return False
    if rule.operations is not None and not any(_operation(item.operation, request) for item in rule.operations):
        return False
    for one in rule.conditions or ():
        if one.values and not any(_condition(one.key, text, request, namespace, each=deny) for text in one.values):
            return False
        if any(_condition(one.key, text, request, namespace, each=not deny) for text in one.not_values):
            return False
    return True


def _field(wanted: tuple[str, ...], unwanted: tuple[str, ...], matches: Any) -> bool:
    return (not wanted or any(map(matches, wanted))) and not any(map(matches, unwanted))


def _source(source: PolicySource, request: Request, namespace: str) -> bool:
    return (
        _field(source.principals, source.not_principals, lambda text: _condition("source.principal", text, request, namespace))
        and _field(source.namespaces, source.not_namespaces, lambda text: _condition("source.namespace", text, request, namespace))
        and _field(source.service_accounts, source.not_service_accounts, lambda text: _account(text, request, namespace))
        and _field(source.ip_blocks, source.not_ip_blocks, lambda text: text.startswith("127.0.0.0") or text == "127.0.0.1")
        and _field(source.request_principals, source.not_request_principals, lambda text: _token(text, request))
    )


def _operation(operation: PolicyOperation, request: Request) -> bool:
    path = request.path.partition("?")[0]
    return (
        _field(operation.methods, operation.not_methods, lambda text: _text(text, request.method))
        and _field(operation.paths, operation.not_paths, lambda text: _path(text, path))
        and _field(operation.hosts, operation.not_hosts, lambda text: _text(text.lower(), request.host.lower().partition(":")[0]))
    )


def _path(pattern: str, path: str) -> bool:
    if "{" not in pattern:
        return _text(pattern, path)
    parts = [{"{*}": "[^/]+", "{**}": ".*"}.get(part, re.escape(part)) for part in pattern.split("/")]
    return re.fullmatch("/".join(parts), path) is not None


def _condition(key: str, text: str, request: Request, namespace: str, *, each: bool = False) -> bool:
    peer = request.peer.removeprefix("spiffe://")
    match key:
        case "source.principal":
            return bool(peer) and _text(text, peer)
        case "source.namespace":
            return bool(peer) and _text(text, peer.split("/")[2])
        case "request.auth.claims[groups]":
            return any(_text(text, group) for group in request.groups)
        case "request.auth.claims[realm][role]":
            return bool(request.issuer) and _text(text, "cook")
        case "request.auth.audiences":
            return bool(request.issuer) and _text(text, "me")
    name = key.removeprefix("request.headers[").removesuffix("]").lower()
    values = [value for header, value in request.headers if header == name]
    if each:
        return any(_text(text, one.strip()) for value in values for one in value.split(","))
    return any(_text(text, value) for value in values)


def _account(text: str, request: Request, namespace: str) -> bool:
    wanted = text if "/" in text else f"{namespace}/{text}"
    parts = request.peer.removeprefix("spiffe://").split("/")
    return len(parts) == 5 and f"{parts[2]}/{parts[4]}" == wanted


def _token(text: str, request: Request) -> bool:
    return bool(request.issuer and request.subject) and _text(text, f"{request.issuer}/{request.subject}")


def _text(pattern: str, value: str) -> bool:
    if pattern == "*":
        return bool(value)
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


# ---- policies and requests in which everything meets often

_NAMES = ("a", "b", "ab")
_PEERS = tuple(f"spiffe://{domain}/ns/{namespace}/sa/{account}" for domain in ("td", "t.d") for namespace in _NAMES for account in _NAMES)
_PATTERNS: dict[str, tuple[str, ...]] = {
    "principals": ("*", "td/ns/a/sa/a", "td/*", "*/sa/b", "t.d/ns/ab/sa/ab", "t*"),
    "namespaces": ("a", "a*", "*b", "*"),
    "serviceAccounts": ("a/a", "shop/a", "b/ab"),
    "requestPrincipals": ("*", "i/a", "i/*", "*/a/b", "i/x/*", "*b"),
    "methods": ("GET", "P*", "*T", "*"),
    "paths": ("/", "/a", "/a*", "*/b", "/a/{*}", "/{**}/b", "/b/c"),
    "hosts": ("shop.test", "*.test", "other.*"),
}
_SOURCES = ("principals", "namespaces", "requestPrincipals")
_OPERATIONS = ("methods", "paths", "hosts")


def some_request(rng: Random) -> Request:
    token = rng.random() < 0.5
    return Request(
        method=rng.choice(("GET", "POST", "PUT", "DELETE")),
        path=rng.choice(("/", "/a", "/a/b", "/ab", "/b/c", "/c/d/b", "/a?x=/b")),
        host=rng.choice(("shop.test", "SHOP.test:80", "other.org", "a.test")),
        peer=rng.choice((*_PEERS, "", "")),
        issuer=rng.choice(("i", "i/x", "j")) if token else "",
        subject=rng.choice(("a", "a/b", "b")) if token else "",
        groups=tuple(rng.sample(_NAMES, rng.randrange(3))) if token else (),
        headers=tuple(("x-kind", rng.choice(("a", "b", "ab", "b, a"))) for _ in range(rng.randrange(3))),
    )


def some_policies(rng: Random) -> list[AuthorizationPolicy]:
    found = []
    for index in range(rng.randint(1, 3)):
        spec = {"action": rng.choice(("ALLOW", "ALLOW", "DENY")), "rules": [_some_rule(rng) for _ in range(rng.randint(1, 3))]}
        found.append(msgspec.convert({"metadata": {"name": f"p{index}", "namespace": "shop"}, "spec": spec}, AuthorizationPolicy))
    return found


def _some_rule(rng: Random) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if rng.random() < 0.6:
        rule["from"] = [{"source": _some_fields(rng, rng.choice((_SOURCES, ("serviceAccounts",))))} for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.6:
        rule["to"] = [{"operation": _some_fields(rng, _OPERATIONS)} for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.3:
        key = rng.choice(("request.headers[x-kind]", "request.auth.claims[groups]", "source.namespace"))
        rule["when"] = [{"key": key, rng.choice(("values", "notValues")): rng.sample(("a", "a*", "*b"), rng.randint(1, 2))}]
    return rule


def _some_fields(rng: Random, names: tuple[str, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in rng.sample(names, rng.randint(1, len(names))):
        field = name if rng.random() < 0.75 else f"not{name[0].upper()}{name[1:]}"
        fields[field] = rng.sample(_PATTERNS[name], rng.randint(1, 2))
    return fields
