"""What becomes of a request that meets the conditions of a route: sent on, redirected, or answered at once."""

import base64
from typing import Any, Final

from msgspec import Struct

from control.envoy.destinations.hashing import hash_policies
from control.envoy.messages import Message, new
from control.envoy.naming import Layer
from control.envoy.parts import seconds
from control.envoy.routing.api_model import APIRoute, PathRedirect
from control.envoy.routing.destinations import find_target
from control.envoy.routing.header_operations import HeaderChanges, header_changes
from control.envoy.routing.retries import retry_policy
from control.envoy.routing.route_filters import fraction
from control.envoy.routing.scope import Scope, Target
from control.envoy.world import World
from control.kinds.routing import Destination, HTTPDestination, HTTPDirectResponse, HTTPRedirect, HTTPRewrite, HTTPRoute
from control.validation.durations import seconds as duration

_CODES: Final = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}
_USUAL_PORTS: Final = {("http", 80), ("https", 443)}


class Action(Struct, frozen=True):
    """The fields of a Route that say what happens, and where it leads."""

    fields: dict[str, Any]
    targets: tuple[Target, ...] = ()


def action(world: World, scope: Scope, namespace: str, route: HTTPRoute) -> Action:
    """Of a route of a rule of this namespace."""
    changes = header_changes(route.headers)
    if route.redirect is not None:
        return Action({**changes.fields, "redirect": _redirect(route.redirect, scope)})
    if route.direct_response is not None:
        return Action({**changes.fields, "direct_response": _answer(route.direct_response)})
    return _forward(world, scope, namespace, route, changes)


def _forward(world: World, scope: Scope, namespace: str, route: HTTPRoute, changes: HeaderChanges) -> Action:
    targets = [find_target(world, scope, namespace, one.destination, Layer.HTTP) for one in route.route]
    hashed = [policy for one in targets if one.cluster for policy in hash_policies(world, scope.proxy, one.cluster)]
    forward: dict[str, Any] = {
        # What a request may take is for its caller to say, unless a rule says it.
        "timeout": seconds(duration(route.timeout)) if route.timeout else {"seconds": 0},
        "hash_policy": list({policy.SerializeToString(deterministic=True): policy for policy in hashed}.values()),
    }
    if isinstance(route, APIRoute):
        forward["cluster_not_found_response_code"] = "INTERNAL_SERVER_ERROR"
    if (retries := retry_policy(route.retries, sticky=bool(hashed))) is not None:
        forward["retry_policy"] = retries
    authority = changes.authority
    if route.rewrite is not None:
        forward |= _rewrite(route.rewrite)
        authority = route.rewrite.authority or authority
    fields = dict(changes.fields)
    if len(route.route) == 1:
        own = header_changes(route.route[0].headers)
        fields = _joined(fields, own.fields)
        authority = authority or own.authority
        forward["cluster"] = targets[0].name
    else:
        forward["weighted_clusters"] = {
            "clusters": [_share(one, target) for one, target in zip(route.route, targets, strict=True) if one.weight]
        }
    if authority:
        forward["host_rewrite_literal"] = authority
    mirrors, mirrored = _mirrors(world, scope, namespace, route)
    forward["request_mirror_policies"] = mirrors
    return Action({**fields, "route": forward}, (*targets, *mirrored))


def _share(one: HTTPDestination, target: Target) -> dict[str, Any]:
    changes = header_changes(one.headers)
    host = {"host_rewrite_literal": changes.authority} if changes.authority else {}
    return {"name": target.name, "weight": {"value": one.weight}, **changes.fields, **host}


def _joined(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    return {name: [*one.get(name, ()), *two.get(name, ())] for name in one.keys() | two.keys()}


def _mirrors(world: World, scope: Scope, namespace: str, route: HTTPRoute) -> tuple[list[dict[str, Any]], list[Target]]:
    stated: list[tuple[Destination, float]] = []
    if route.mirror is not None:
        stated.append((route.mirror, route.mirror_percentage.value if route.mirror_percentage else 100.0))
    stated += [(one.destination, one.percentage.value if one.percentage else 100.0) for one in route.mirrors]
    targets = [find_target(world, scope, namespace, one, Layer.HTTP) for one, share in stated if share]
    policies = [
        {"cluster": target.name, "runtime_fraction": {"default_value": fraction(share)}, "disable_shadow_host_suffix_append": True}
        for target, share in zip(targets, [share for _, share in stated if share], strict=True)
        if target.cluster is not None
    ]
    return policies, targets


def _rewrite(rewrite: HTTPRewrite) -> dict[str, Any]:
    if (by := rewrite.uri_regex_rewrite) is not None:
        return {"regex_rewrite": {"pattern": {"regex": by.match}, "substitution": by.rewrite}}
    return {"prefix_rewrite": rewrite.uri} if rewrite.uri else {}


def _redirect(redirect: HTTPRedirect, scope: Scope) -> Message:
    fields: dict[str, Any] = {"response_code": _CODES[redirect.redirect_code or 301]}
    if redirect.uri:
        fields["path_redirect"] = redirect.uri
    elif isinstance(redirect, PathRedirect) and redirect.path is not None:
        fields["regex_rewrite"] = {"pattern": {"regex": redirect.path.match}, "substitution": redirect.path.rewrite}
    if redirect.authority:
        fields["host_redirect"] = redirect.authority
    if redirect.scheme:
        fields["scheme_redirect"] = redirect.scheme
    port = scope.port if redirect.derive_port == "FROM_REQUEST_PORT" else redirect.port
    scheme = redirect.scheme or ("https" if scope.secure else "http")
    if port and (scheme, port) not in _USUAL_PORTS:
        fields["port_redirect"] = port
    return new("envoy.config.route.v3.RedirectAction", **fields)


def _answer(response: HTTPDirectResponse) -> Message:
    fields: dict[str, Any] = {"status": response.status}
    if response.body is not None and response.body.string is not None:
        fields["body"] = {"inline_string": response.body.string}
    elif response.body is not None:
        fields["body"] = {"inline_bytes": base64.b64decode(response.body.bytes or "")}
    return new("envoy.config.route.v3.DirectResponseAction", **fields)
