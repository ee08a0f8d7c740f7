"""Checks of Gateway API's routes and grants, as far as one object can be judged alone."""

from collections.abc import Iterator
from typing import Final

from control.kinds import GRPCRoute, HTTPRoute, ReferenceGrant, TCPRoute, TLSRoute
from control.kinds.gateway import GROUP
from control.kinds.gateway_routes import (
    BackendReference,
    CallMatch,
    ConnectionRule,
    GRPCRule,
    HTTPRule,
    ParentReference,
    RequestMatch,
    RouteBackend,
    ValueMatch,
)
from control.validation import http_text, values
from control.validation.core_checks import Path, attempt, attempt_port
from control.validation.durations import pause, positive
from control.validation.finding import Remark, warning
from control.validation.regex import regex
from control.validation.route_filter_checks import filters_remarks

MAX_REGEXES: Final = 200
"""In one object, as in a VirtualService."""
_MAX_WEIGHT: Final = 1_000_000
_PATH_TYPES: Final = ("Exact", "PathPrefix", "RegularExpression")
_VALUE_TYPES: Final = ("Exact", "RegularExpression")
_PARENTS: Final = {(GROUP, "Gateway"), ("", "Service"), ("networking.istio.io", "ServiceEntry")}
_BACKENDS: Final = {("", "Service"), ("networking.istio.io", "ServiceEntry")}


def http_route_remarks(route: HTTPRoute) -> Iterator[Remark]:
    spec = route.spec
    yield from _parents_remarks(spec.parent_refs)
    yield from _hostname_remarks(spec.hostnames)
    matches = [match for rule in spec.rules for match in rule.matches]
    count = sum(match.path.type == "RegularExpression" for match in matches)
    count += sum(one.type == "RegularExpression" for match in matches for one in (*match.headers, *match.query_params))
    if count > MAX_REGEXES:
        yield Remark(("spec",), f"{count} regular expressions: at most {MAX_REGEXES}")
        return
    for index, rule in enumerate(spec.rules):
        yield from _http_rule_remarks(rule, ("spec", "rules", index))


def grpc_route_remarks(route: GRPCRoute) -> Iterator[Remark]:
    spec = route.spec
    yield from _parents_remarks(spec.parent_refs)
    yield from _hostname_remarks(spec.hostnames)
    matches = [match for rule in spec.rules for match in rule.matches]
    count = sum(match.method is not None and match.method.type == "RegularExpression" for match in matches)
    if count + sum(one.type == "RegularExpression" for match in matches for one in match.headers) > MAX_REGEXES:
        yield Remark(("spec",), f"more than {MAX_REGEXES} regular expressions")
        return
    for index, rule in enumerate(spec.rules):
        yield from _grpc_rule_remarks(rule, ("spec", "rules", index))


def tls_route_remarks(route: TLSRoute) -> Iterator[Remark]:
    yield from _parents_remarks(route.spec.parent_refs)
    yield from _hostname_remarks(route.spec.hostnames)
    if not route.spec.hostnames:
        yield warning(("spec",), "has no hostnames: it takes every name of its listeners")
    yield from _connection_remarks(route.spec.rules)


def tcp_route_remarks(route: TCPRoute) -> Iterator[Remark]:
    yield from _parents_remarks(route.spec.parent_refs)
    yield from _connection_remarks(route.spec.rules)


def reference_grant_remarks(grant: ReferenceGrant) -> Iterator[Remark]:
    for name, given in (("from", grant.spec.origins), ("to", grant.spec.to)):
        if not given:
            yield Remark(("spec", name), "is empty: it grants nothing")
    for index, one in enumerate(grant.spec.origins):
        yield from attempt(values.label_name, one.namespace, ("spec", "from", index, "namespace"))
    for index, granted in enumerate(grant.spec.to):
        if granted.name:
            yield from attempt(values.object_name, granted.name, ("spec", "to", index, "name"))


def _parents_remarks(parents: tuple[ParentReference, ...]) -> Iterator[Remark]:
    if not parents:
        yield warning(("spec",), "has no parentRefs: it holds nowhere", "name a Gateway or a Service")
    for index, parent in enumerate(parents):
        path: Path = ("spec", "parentRefs", index)
        if (parent.group, parent.kind) not in _PARENTS:
            yield warning(path, f"a {parent.kind[:40]} of {parent.group[:80]!r} has no routes of this mesh: it is not looked at")
            continue
        yield from attempt(values.object_name, parent.name, (*path, "name"))
        if parent.namespace:
            yield from attempt(values.label_name, parent.namespace, (*path, "namespace"))
        if parent.port:
            yield from attempt_port(parent.port, (*path, "port"))


def _hostname_remarks(hostnames: tuple[str, ...]) -> Iterator[Remark]:
    for index, text in enumerate(hostnames):
        yield from attempt(values.host, text, ("spec", "hostnames", index))


def _http_rule_remarks(rule: HTTPRule, path: Path) -> Iterator[Remark]:
    yield from attempt(http_text.label, rule.name, (*path, "name"))
    for index, match in enumerate(rule.matches):
        yield from _request_match_remarks(match, (*path, "matches", index))
    paths = [match.path for match in rule.matches]
    prefixed = bool(paths) and all(one.type == "PathPrefix" for one in paths)
    yield from filters_remarks(rule.filters, (*path, "filters"), prefixed=prefixed)
    redirects = any(one.type == "RequestRedirect" for one in rule.filters)
    if redirects and rule.backend_refs:
        yield Remark((*path, "backendRefs"), "requests that are redirected go to no backend", "remove the filter or the backends")
    for index, backend in enumerate(rule.backend_refs):
        yield from _http_backend_remarks(backend, (*path, "backendRefs", index), prefixed=prefixed)
    yield from _patience_remarks(rule, path)
    if rule.session_persistence is not None:
        yield Remark((*path, "sessionPersistence"), "is not supported", "a DestinationRule's consistentHash by cookie does much the same")


def _patience_remarks(rule: HTTPRule, path: Path) -> Iterator[Remark]:
    for name, text in (("request", rule.timeouts.request), ("backendRequest", rule.timeouts.backend_request)):
        if text:
            yield from attempt(pause, text, (*path, "timeouts", name))
    retry = rule.retry
    if retry is None:
        return
    if retry.attempts is not None and not 0 <= retry.attempts <= 1000:
        yield Remark((*path, "retry", "attempts"), f"{retry.attempts} attempts: 0 to 1000")
    if retry.backoff:
        yield from attempt(positive, retry.backoff, (*path, "retry", "backoff"))
    for index, code in enumerate(retry.codes):
        if not 400 <= code <= 599:
            yield Remark((*path, "retry", "codes", index), f"{code} is no status of a failure: 400 to 599")


def _request_match_remarks(match: RequestMatch, path: Path) -> Iterator[Remark]:
    kind, text = match.path.type, match.path.value
    here: Path = (*path, "path")
    if kind not in _PATH_TYPES:
        yield Remark((*here, "type"), f"{kind[:40]!r} is none of {', '.join(_PATH_TYPES)}")
    elif kind == "RegularExpression":
        yield from attempt(regex, text, (*here, "value"))
    elif not text.startswith("/") or "//" in text or "?" in text or "#" in text or not text.isascii() or not text.isprintable():
        yield Remark((*here, "value"), f"{text[:80]!r} matches no path: those begin with /, and end ahead of ? and #")
    if match.method and match.method not in http_text.METHODS:
        yield Remark((*path, "method"), f"{match.method[:40]!r} is no method")
    for group, named in (("headers", match.headers), ("queryParams", match.query_params)):
        for index, one in enumerate(named):
            name = http_text.header_name if group == "headers" else http_text.plain_value
            yield from attempt(name, one.name, (*path, group, index, "name"))
            yield from _value_remarks(one, (*path, group, index))


def _value_remarks(match: ValueMatch, path: Path) -> Iterator[Remark]:
    if match.type not in _VALUE_TYPES:
        yield Remark((*path, "type"), f"{match.type[:40]!r} is none of {', '.join(_VALUE_TYPES)}")
    yield from attempt(regex if match.type == "RegularExpression" else http_text.plain_value, match.value, (*path, "value"))


def _grpc_rule_remarks(rule: GRPCRule, path: Path) -> Iterator[Remark]:
    yield from attempt(http_text.label, rule.name, (*path, "name"))
    for index, match in enumerate(rule.matches):
        yield from _call_match_remarks(match, (*path, "matches", index))
    yield from filters_remarks(rule.filters, (*path, "filters"), prefixed=False, grpc=True)
    for index, backend in enumerate(rule.backend_refs):
        yield from _backend_remarks(backend, (*path, "backendRefs", index))
        yield from filters_remarks(backend.filters, (*path, "backendRefs", index, "filters"), prefixed=False, grpc=True)
    if rule.session_persistence is not None:
        yield Remark((*path, "sessionPersistence"), "is not supported")


def _call_match_remarks(match: CallMatch, path: Path) -> Iterator[Remark]:
    if match.method is not None:
        here: Path = (*path, "method")
        if match.method.type not in _VALUE_TYPES:
            yield Remark((*here, "type"), f"{match.method.type[:40]!r} is none of {', '.join(_VALUE_TYPES)}")
        if not match.method.service and not match.method.method:
            yield Remark(here, "names neither a service nor a method", "say one of them, or leave method out")
        for name, text in (("service", match.method.service), ("method", match.method.method)):
            if text and match.method.type == "RegularExpression":
                yield from attempt(regex, text, (*here, name))
            elif text and ("/" in text or not text.isascii() or not text.isprintable() or " " in text):
                yield Remark((*here, name), f"{text[:80]!r} is no name of gRPC")
    for index, one in enumerate(match.headers):
        yield from attempt(http_text.header_name, one.name, (*path, "headers", index, "name"))
        yield from _value_remarks(one, (*path, "headers", index))


def _connection_remarks(rules: tuple[ConnectionRule, ...]) -> Iterator[Remark]:
    if len(rules) != 1:
        yield Remark(("spec", "rules"), f"{len(rules)} rules: connections have one")
    for index, rule in enumerate(rules):
        if not rule.backend_refs:
            yield Remark(("spec", "rules", index), "leads nowhere", "give it backendRefs")
        for at, backend in enumerate(rule.backend_refs):
            yield from _backend_remarks(backend, ("spec", "rules", index, "backendRefs", at))


def _http_backend_remarks(backend: RouteBackend, path: Path, *, prefixed: bool) -> Iterator[Remark]:
    yield from _backend_remarks(backend, path)
    yield from filters_remarks(backend.filters, (*path, "filters"), prefixed=prefixed)


def _backend_remarks(backend: BackendReference, path: Path) -> Iterator[Remark]:
    """Of a kind that leads nowhere here, the share of requests fails: as the Gateway API has it, the rest of the route holds."""
    if not 0 <= backend.weight <= _MAX_WEIGHT:
        yield Remark((*path, "weight"), f"{backend.weight} is no weight: 0 to {_MAX_WEIGHT}")
    if (backend.group, backend.kind) not in _BACKENDS:
        yield warning(path, f"a {backend.kind[:40]} of {backend.group[:80]!r} is nothing to send requests to: they fail")
        return
    yield from attempt(values.object_name, backend.name, (*path, "name"))
    if backend.namespace:
        yield from attempt(values.label_name, backend.namespace, (*path, "namespace"))
    if backend.port:
        yield from attempt_port(backend.port, (*path, "port"))
    else:
        yield Remark((*path, "port"), "needs a port")
