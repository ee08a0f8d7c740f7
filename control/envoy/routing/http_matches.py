"""Conditions of HTTP routes as Envoy's: those that hold for all of a place are decided here, the others for each request there."""

import re
from typing import Any, Final

from control.envoy.messages import Message, new
from control.envoy.parts import PEER, PEER_ADDRESS
from control.envoy.routing.api_model import SeparatedPrefix
from control.envoy.routing.clients import Clients
from control.envoy.routing.scope import Scope, full_gateway
from control.envoy.routing.string_matches import header_matcher, header_without, parameter_matcher
from control.kinds.routing import HTTPMatch, L4Match, StringMatch, TLSMatch

ANY_PATH = {"prefix": "/"}
_STATE: Final = "envoy.type.matcher.v3.FilterStateMatcher"


def applies(match: HTTPMatch | TLSMatch | L4Match, scope: Scope, namespace: str) -> bool:
    """Whether a condition can be met at a place at all, for a rule of this namespace."""
    if match.port and match.port != scope.port:
        return False
    if match.gateways and not any(full_gateway(one, namespace) in scope.gateways for one in match.gateways):
        return False
    # Who a client is, is known where its identity is: what can't be asked is not met.
    return not (match.source_labels or match.source_namespace) or scope.peers


def route_match(match: HTTPMatch | None, trust_domain: str, clients: Clients | None = None) -> Message:
    """What requests must be like; None: any. `clients`: whom alone they may come from, where the condition has labels."""
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
        found.filter_state.append(new(_STATE, key=PEER, string_match={"prefix": prefix}))
    if clients is not None:
        found.filter_state.extend(_from(clients))
    return found


def _from(clients: Clients) -> list[Message]:
    """The address is the connection's, and says which of an identity's workloads it is. Without any the route stays, for nobody."""
    if not clients.addresses:
        return [new(_STATE, key=PEER, string_match={"exact": "nobody"})]
    ranges = [{"address_prefix": str(one), "prefix_len": {"value": one.max_prefixlen}} for one in clients.addresses]
    names = {"safe_regex": {"regex": "|".join(re.escape(str(one)) for one in clients.identities)}}
    return [new(_STATE, key=PEER, string_match=names), new(_STATE, key=PEER_ADDRESS, address_match={"ranges": ranges})]


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
