"""Rules of the Gateway API's HTTPRoute and GRPCRoute as routes of Istio's model: filters, backends and patience."""

import re
from typing import Any, Final

from control.envoy.routing.api_model import APIRoute, Nowhere, PathRedirect
from control.envoy.routing.grants import Reference, granted
from control.envoy.routing.retries import ATTEMPTS, RETRY_ON
from control.envoy.world import World
from control.kinds import ObjectKey, ServiceEntry
from control.kinds.gateway import GROUP
from control.kinds.gateway_routes import (
    BackendReference,
    CORSFilter,
    GRPCRule,
    HeaderModifier,
    HTTPRule,
    MirrorReference,
    PathModifier,
    RequestMirror,
    RequestRedirect,
    RouteFilter,
    URLRewrite,
)
from control.kinds.routing import (
    CORSPolicy,
    Destination,
    HeaderOperations,
    Headers,
    HTTPBody,
    HTTPDestination,
    HTTPDirectResponse,
    HTTPRetry,
    HTTPRewrite,
    MirrorPolicy,
    Percent,
    PortSelector,
    RegexRewrite,
    StringMatch,
)
from control.validation.durations import seconds

_ENTRY: Final = ("networking.istio.io", "ServiceEntry")
_SERVICES: Final = {("", "Service"), ("core", "Service")}


def rule_route(world: World, owner: ObjectKey, rule: HTTPRule | GRPCRule, prefix: str) -> APIRoute:
    """The route of a rule, whatever its conditions. `prefix`: the one of the path that a filter may replace, where it has one."""
    changes: dict[str, Any] = {"name": rule.name, "headers": _headers(rule.filters)}
    mirrors: list[MirrorPolicy] = []
    for one in rule.filters:
        if one.request_redirect is not None:
            return APIRoute(name=rule.name, headers=_headers(rule.filters), redirect=_redirect(one.request_redirect, prefix))
        if one.url_rewrite is not None:
            changes["rewrite"] = _rewrite(one.url_rewrite, prefix)
        if one.cors is not None:
            changes["cors_policy"] = _cors(one.cors)
        if one.request_mirror is not None:
            mirrors.append(
                MirrorPolicy(backend_destination(world, owner, one.request_mirror.backend_ref), Percent(_share(one.request_mirror)))
            )
    if isinstance(rule, HTTPRule):
        changes |= _patience(rule)
    backends = [one for one in rule.backend_refs if one.weight]
    if not backends:
        refusal = HTTPDirectResponse(500, HTTPBody(string="no backend\n"))
        return APIRoute(name=rule.name, headers=_headers(rule.filters), direct_response=refusal)
    route = tuple(HTTPDestination(backend_destination(world, owner, one), one.weight, _headers(one.filters)) for one in backends)
    return APIRoute(**changes, mirrors=tuple(mirrors), route=route)


def backend_host(world: World, backend: BackendReference | MirrorReference, namespace: str) -> str:
    """The host name of a backend; empty where it is of a kind that is nothing to send requests to, or is not there."""
    where = backend.namespace or namespace
    if (backend.group, backend.kind) in _SERVICES:
        return f"{backend.name}.{where}.svc.{world.settings.domain}"
    if (backend.group, backend.kind) == _ENTRY:
        entry = world.find(ServiceEntry, where, backend.name)
        return entry.spec.hosts[0] if entry is not None and entry.spec.hosts else ""
    return ""


def backend_destination(world: World, owner: ObjectKey, backend: BackendReference | MirrorReference) -> Destination:
    """Where a backend of a route leads."""
    where = backend.namespace or owner.namespace
    reference = Reference(GROUP, owner.kind.api_name, owner.namespace, backend.group, backend.kind, where, backend.name)
    what = f"{backend.kind} {where}/{backend.name}"
    if not world.ask(granted, reference):
        return Nowhere(host=backend.name, why=f"no ReferenceGrant of namespace {where} lets it name {what}", reason="RefNotPermitted")
    host = backend_host(world, backend, owner.namespace)
    if not host:
        return Nowhere(host=backend.name, why=f"{what} is nothing to send requests to", reason="InvalidKind")
    return Destination(host, port=PortSelector(backend.port) if backend.port else None)


def _headers(filters: tuple[RouteFilter, ...]) -> Headers | None:
    request = next((one.request_header_modifier for one in filters if one.request_header_modifier is not None), None)
    response = next((one.response_header_modifier for one in filters if one.response_header_modifier is not None), None)
    if request is None and response is None:
        return None
    return Headers(_operations(request or HeaderModifier()), _operations(response or HeaderModifier()))


def _operations(modifier: HeaderModifier) -> HeaderOperations:
    """Values are taken as they are: Envoy fills nothing in."""
    return HeaderOperations(
        set={one.name: one.value.replace("%", "%%") for one in modifier.set},
        add={one.name: one.value.replace("%", "%%") for one in modifier.add},
        remove=modifier.remove,
    )


def _share(mirror: RequestMirror) -> float:
    if mirror.fraction is not None:
        return 100.0 * mirror.fraction.numerator / mirror.fraction.denominator
    return 100.0 if mirror.percent is None else float(mirror.percent)


def _redirect(redirect: RequestRedirect, prefix: str) -> PathRedirect:
    path = redirect.path
    return PathRedirect(
        uri=(path.replace_full_path or "") if path is not None else "",
        path=_prefix_change(path, prefix) if path is not None and path.replace_prefix_match is not None else None,
        authority=redirect.hostname,
        scheme=redirect.scheme,
        port=redirect.port,
        redirect_code=redirect.status_code,
    )


def _rewrite(rewrite: URLRewrite, prefix: str) -> HTTPRewrite:
    return HTTPRewrite(
        authority=rewrite.hostname, uri_regex_rewrite=_prefix_change(rewrite.path, prefix) if rewrite.path is not None else None
    )


def _prefix_change(modifier: PathModifier, prefix: str) -> RegexRewrite:
    """The change of a path; what follows a prefix of whole segments is kept, with one slash between them."""
    if modifier.replace_prefix_match is None:
        return RegexRewrite("^/.*", _literal(modifier.replace_full_path or "/"))
    before, after = prefix.rstrip("/"), modifier.replace_prefix_match.rstrip("/")
    if not before:
        return RegexRewrite("^/", f"{_literal(after)}/")
    return RegexRewrite(f"^{re.escape(before)}", _literal(after)) if after else RegexRewrite(f"^{re.escape(before)}/?", "/")


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\")


def _cors(cors: CORSFilter) -> CORSPolicy:
    return CORSPolicy(
        allow_origins=tuple(_origin(one) for one in cors.allow_origins),
        allow_methods=cors.allow_methods,
        allow_headers=cors.allow_headers,
        expose_headers=cors.expose_headers,
        max_age=f"{cors.max_age}s",
        allow_credentials=cors.allow_credentials,
        unmatched_preflights="IGNORE",
    )


def _origin(text: str) -> StringMatch:
    if text == "*" or "*" not in text:
        return StringMatch(exact=text)
    return StringMatch(regex=re.escape(text).replace(r"\*", "[A-Za-z0-9.-]+"))


def _patience(rule: HTTPRule) -> dict[str, Any]:
    """`request` is the time for all tries, `backendRequest` for each; 0s means no bound."""
    found: dict[str, Any] = {"timeout": rule.timeouts.request}
    each = rule.timeouts.backend_request if rule.timeouts.backend_request and seconds(rule.timeouts.backend_request) else ""
    if rule.retry is not None:
        attempts = ATTEMPTS if rule.retry.attempts is None else rule.retry.attempts
        codes = ",".join(map(str, rule.retry.codes))
        found["retries"] = HTTPRetry(attempts, each, f"{RETRY_ON},{codes}" if codes else "", backoff=rule.retry.backoff)
    elif each:
        found["retries"] = HTTPRetry(ATTEMPTS, each)
    return found
