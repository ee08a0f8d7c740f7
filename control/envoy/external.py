"""Policies of action CUSTOM: whatever their rules match is put to a provider of the mesh configuration, who decides.

Two filters a provider: RBAC that enforces nothing and notes whether a rule matched, and Envoy's external authorization where one did.
A policy whose provider is not there, or can't be reached as a service of the mesh, denies what its rules match.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any as Message
from typing import Final

from msgspec import Struct

from control.envoy.asked import asked_service
from control.envoy.mesh_options import mesh_options
from control.envoy.messages import new
from control.envoy.naming import ClusterRef
from control.envoy.parts import extension
from control.envoy.rbac.filters import HTTP_RBAC, ruled
from control.envoy.rbac.matchers import string
from control.envoy.rbac.parts import Callers
from control.envoy.tokens import duration
from control.envoy.world import World
from control.kinds import AuthorizationPolicy
from control.kinds.mesh_config import BodyCheck, ExtensionProvider, GRPCAuthorizer, HTTPAuthorizer
from control.kinds.security import PolicyAction
from control.validation.durations import seconds
from control.validation.mesh_checks import error_status

_EXTERNAL: Final = "envoy.filters.http.ext_authz"
_FILTER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
_DECIDE_S: Final = 10.0
_MATCHED: Final = "ns["
"""How the names of all rules begin."""


class Authorizer(Struct, frozen=True):
    """A provider that can be asked, and the cluster by which."""

    provider: ExtensionProvider
    cluster: ClusterRef


class Asking(Struct, frozen=True):
    """The filters, and the policies that nobody can be asked about: they are to deny."""

    filters: tuple[Message, ...] = ()
    clusters: tuple[ClusterRef, ...] = ()
    unasked: tuple[AuthorizationPolicy, ...] = ()


def authorizer(world: World, name: str) -> Authorizer | None:
    """A provider by its name; None if there is none, or its service is not one of the mesh."""
    provider = world.ask(mesh_options).provider(name)
    if provider is None:
        return None
    target = provider.envoy_ext_authz_grpc or provider.envoy_ext_authz_http
    if target is None:
        return None
    cluster = asked_service(world, target.service, target.port)
    return Authorizer(provider, cluster) if cluster is not None else None


def asking(policies: Iterable[AuthorizationPolicy], authorizers: Mapping[str, Authorizer | None], callers: Callers) -> Asking:
    """The filters of the CUSTOM policies among `policies`; `authorizers` by the names that they have."""
    by_provider: dict[str, list[AuthorizationPolicy]] = {}
    for policy in policies:
        if policy.spec.action is PolicyAction.CUSTOM:
            by_provider.setdefault(provider_name(policy), []).append(policy)
    filters: list[Message] = []
    clusters: list[ClusterRef] = []
    unasked: list[AuthorizationPolicy] = []
    for name in sorted(by_provider):
        found = authorizers.get(name)
        if found is None:
            unasked += by_provider[name]
        else:
            filters += _filters(found, by_provider[name], callers)
            clusters.append(found.cluster)
    return Asking(tuple(filters), tuple(clusters), tuple(unasked))


def provider_name(policy: AuthorizationPolicy) -> str:
    return policy.spec.provider.name if policy.spec.provider is not None else ""


def _filters(found: Authorizer, policies: Sequence[AuthorizationPolicy], callers: Callers) -> list[Message]:
    name = found.provider.name
    prefix = f"istio_ext_authz_{name}_"
    rules = {key: rule for policy in policies for key, rule in ruled(policy, callers, requests=True).policies.items()}
    shadow = new("envoy.config.rbac.v3.RBAC", action="DENY", policies=rules)
    noting = extension(HTTP_RBAC, "filters.http.rbac.v3.RBAC", shadow_rules=shadow, shadow_rules_stat_prefix=prefix)
    matched = {
        "filter": HTTP_RBAC,
        "path": [{"key": f"{prefix}shadow_effective_policy_id"}],
        "value": {"string_match": {"prefix": _MATCHED}},
    }
    fields: dict[str, object] = {
        "transport_api_version": "V3",
        "filter_enabled_metadata": matched,
        "stat_prefix": name,
        # Headers that no request can have are an error of the provider's, not the application's problem.
        "validate_mutations": True,
    }
    grpc, http = found.provider.envoy_ext_authz_grpc, found.provider.envoy_ext_authz_http
    if grpc is not None:
        fields |= _common(grpc) | {"grpc_service": _grpc(grpc, found.cluster)}
    elif http is not None:
        fields |= _common(http) | {"http_service": _http(http, found.cluster)} | _headers(allowed_headers=_shown(http))
    asked = extension(_EXTERNAL, "filters.http.ext_authz.v3.ExtAuthz", **fields)
    return [new(_FILTER, **noting), new(_FILTER, **asked)]


def _common(target: GRPCAuthorizer | HTTPAuthorizer) -> dict[str, object]:
    fields: dict[str, object] = {"failure_mode_allow": target.fail_open, "clear_route_cache": target.clear_route_cache}
    if target.status_on_error:
        fields["status_on_error"] = {"code": error_status(target.status_on_error)}
    if target.include_request_body_in_check is not None:
        fields["with_request_body"] = _body(target.include_request_body_in_check)
    return fields


def _body(body: BodyCheck) -> dict[str, object]:
    return {
        "max_request_bytes": body.max_request_bytes,
        "allow_partial_message": body.allow_partial_message,
        "pack_as_bytes": body.pack_as_bytes,
    }


def _grpc(target: GRPCAuthorizer, cluster: ClusterRef) -> dict[str, object]:
    return {"envoy_grpc": {"cluster_name": cluster.name, "authority": cluster.hostname}, "timeout": _timeout(target.timeout)}


def _http(target: HTTPAuthorizer, cluster: ClusterRef) -> dict[str, object]:
    more = [{"key": key, "value": value} for key, value in sorted(target.include_additional_headers_in_check.items())]
    return {
        "server_uri": {
            "uri": f"http://{cluster.hostname}:{cluster.port}",
            "cluster": cluster.name,
            "timeout": _timeout(target.timeout),
        },
        "path_prefix": target.path_prefix,
        "authorization_request": {"headers_to_add": more},
        "authorization_response": _headers(
            allowed_upstream_headers=target.headers_to_upstream_on_allow,
            allowed_client_headers=target.headers_to_downstream_on_deny,
            allowed_client_headers_on_success=target.headers_to_downstream_on_allow,
        ),
    }


def _shown(target: HTTPAuthorizer) -> tuple[str, ...]:
    return (*target.include_headers_in_check, *target.include_request_headers_in_check)


def _headers(**fields: Sequence[str]) -> dict[str, object]:
    """Patterns of headers' names by field; without any, a field is left out, and means what Envoy takes it for."""
    return {field: {"patterns": [_name(name) for name in names]} for field, names in fields.items() if names}


def _name(text: str) -> Message:
    matcher = string(text.lower())
    matcher.ignore_case = not matcher.HasField("safe_regex")
    return matcher


def _timeout(text: str) -> Message:
    return duration(seconds(text) if text else _DECIDE_S)
