"""Conditions of HTTP routes as Envoy's: those that hold for all of a place are decided here, the others for each request there."""

from typing import Any

from control.envoy.messages import Message, new
from control.envoy.parts import PEER
from control.envoy.routing.api_model import SeparatedPrefix
from control.envoy.routing.scope import Scope, full_gateway
from control.envoy.routing.string_matches import header_matcher, header_without, parameter_matcher
from control.kinds.routing import HTTPMatch, L4Match, StringMatch, TLSMatch

ANY_PATH = {"prefix": "/"}


def applies(match: HTTPMatch | TLSMatch | L4Match, scope: Scope, namespace: str) -> bool:
    """Whether a condition can be met at a place at all, for a rule of this namespace."""
    if match.port and match.port != scope.port:
        return False
    if match.gateways and not any(full_gateway(one, namespace) in scope.gateways for one in match.gateways):
        return False
    # Whose labels a client has is not known here, and its namespace only by its identity: what can't be asked is not met.
    return not match.source_labels and (not match.source_namespace or scope.peers)


def route_match(match: HTTPMatch | None, trust_domain: str) -> Message:
    """What requests must be like; None: any."""
    if match is None:
        return new("envoy.config.route.v3.RouteMatch", **ANY_PATH)
    headers = [header_matcher(name, one) for name, one in match.headers.items()]
    headers += [header_without(name, one) for name, one in match.without_headers.items()]
    headers.sort(key=lambda one: str(one.name))
    for name, stated in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if stated is not None:
            headers.append(header_matcher(name, stated))
    found = new(
        "envoy.config.route.v3.RouteMatch",
        **_path(match.uri),
        headers=headers,
        query_parameters=[parameter_matcher(name, one) for name, one in sorted(match.query_params.items())],
        case_sensitive={"value": not match.ignore_uri_case},
    )
    if match.source_namespace:
        prefix = f"spiffe://{trust_domain}/ns/{match.source_namespace}/"
        found.filter_state.append(new("envoy.type.matcher.v3.FilterStateMatcher", key=PEER, string_match={"prefix": prefix}))
    return found


def _path(uri: StringMatch | None) -> dict[str, Any]:
    match uri:
        case None:
            return ANY_PATH
        case SeparatedPrefix(prefix=str() as prefix):
            return {"path_separated_prefix": prefix}
        case StringMatch(exact=str() as path):
            return {"path": path}
        case StringMatch(prefix=str() as prefix):
            return {"prefix": prefix}
    return {"safe_regex": {"regex": uri.regex or ""}}
