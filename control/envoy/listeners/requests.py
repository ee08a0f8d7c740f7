"""How requests are read, so that policies judge what is forwarded.

Where policies look at paths or hosts, what an application could read in another way is brought into one form ahead of judging, and goes on
in it (dot segments, repeated slashes, backslashes, escapes of what needs none); what has no sure form is 400: escaped slashes, two hosts,
parameters of segments, of which some applications make nothing (`/admin;x`). Elsewhere paths keep their slashes, as Istio does it.
"""

from typing import Any, Final

from control.envoy.built import Built, built
from control.envoy.guarding import authorization_of, limits_of
from control.envoy.messages import Message, message_class, new
from control.envoy.parts import extension
from control.envoy.place import Place
from control.envoy.world import World
from control.kinds.security import PolicyRule
from control.validation.rate_limit_checks import Counted

_ROUTES: Final = "envoy.config.route.v3.RouteConfiguration"
AMBIGUOUS: Final = ".*(;|%3[bB]).*"
"""Of a path without its query."""
SEVERAL_HOSTS: Final = ".*[,\\s].*"
"""Of the authority: Envoy makes one of two `Host` headers."""
CLAIMS: Final = (
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-host",
    "x-envoy-original-path",
)


def judges_paths(world: World, place: Place) -> bool:
    """Whether a policy or a limit at this place looks at paths or hosts."""
    limiting = [rule for item in world.ask(limits_of, place) for rule in item.spec.rules]
    judging = [rule for policy in world.ask(authorization_of, place) for rule in policy.spec.rules]
    return any(_looks_at_address(rule) for rule in (*judging, *limiting)) or any(Counted.PATH.value in rule.by for rule in limiting)


def reading(*, strict: bool) -> dict[str, Any]:
    """The fields of the connection manager; `strict` where paths are judged."""
    fields: dict[str, Any] = {"normalize_path": {"value": True}, "strip_trailing_host_dot": True}
    if strict:
        fields |= {"merge_slashes": True, "path_with_escaped_slashes_action": "REJECT_REQUEST"}
    return fields


def unclaimed() -> dict[str, Any]:
    """The fields of a waypoint's connection manager by which a client can't claim what Envoys say of requests: access logs, spans and
    applications take it for theirs. At the edge Envoy removes the same by itself."""
    mutations = [{"remove": name} for name in CLAIMS]
    kind = "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {"early_header_mutation_extensions": [extension("unclaimed", kind, mutations=mutations)]}


def without_ambiguity(world: World, place: Place, routes: Built) -> Built:
    """The routes of a place, with what has no sure form refused ahead of them where that matters."""
    if not world.ask(judges_paths, place):
        return routes
    message = message_class(_ROUTES).FromString(routes.resource.body)
    for host in message.virtual_hosts:
        others = list(host.routes)
        del host.routes[:]
        host.routes.extend([*refusals(), *others])
    return built(routes.resource.name, message, routes.sources, routes.problems)


def refusals() -> list[Message]:
    """The routes that answer 400."""
    host = {"name": ":authority", "string_match": {"safe_regex": {"regex": SEVERAL_HOSTS}}}
    return [
        _refusal({"safe_regex": {"regex": AMBIGUOUS}}, "this form of a path is not clear enough for the policies here\n"),
        _refusal({"prefix": "/", "headers": [host]}, "more than one host\n"),
    ]


def _refusal(match: dict[str, Any], why: str) -> Message:
    answer = {"status": 400, "body": {"inline_string": why}}
    return new("envoy.config.route.v3.Route", name="ambiguous", match=match, direct_response=answer)


def _looks_at_address(rule: PolicyRule) -> bool:
    operations = [item.operation for item in rule.operations or ()]
    return any(operation.paths or operation.not_paths or operation.hosts or operation.not_hosts for operation in operations)
