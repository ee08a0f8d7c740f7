"""Patches understood: the message that is meant, and that it is one which may be applied. What no place could take is refused here."""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import json_format
from msgspec import Struct

from control.envoy.messages import Message, message_class, pool
from control.envoy.patches.allowed import LIMITING, MANAGER, PatchError, opened, secure, type_name
from control.envoy.patches.fields import check_fields, check_inserted
from control.kinds.envoy_filter import (
    ApplyTo,
    ClusterMatch,
    ConfigPatch,
    FilterClass,
    ListenerMatch,
    Operation,
    PatchContext,
    PatchMatch,
    RouteConfigurationMatch,
    WaypointMatch,
)

_MESSAGES: Final[Mapping[ApplyTo, str]] = {
    ApplyTo.LISTENER: "envoy.config.listener.v3.Listener",
    ApplyTo.FILTER_CHAIN: "envoy.config.listener.v3.FilterChain",
    ApplyTo.NETWORK_FILTER: "envoy.config.listener.v3.Filter",
    ApplyTo.HTTP_FILTER: "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    ApplyTo.ROUTE_CONFIGURATION: "envoy.config.route.v3.RouteConfiguration",
    ApplyTo.VIRTUAL_HOST: "envoy.config.route.v3.VirtualHost",
    ApplyTo.HTTP_ROUTE: "envoy.config.route.v3.Route",
    ApplyTo.CLUSTER: "envoy.config.cluster.v3.Cluster",
}
_ADDING: Final = frozenset((Operation.ADD, Operation.INSERT_BEFORE, Operation.INSERT_AFTER, Operation.INSERT_FIRST, Operation.REPLACE))
_FILTERS: Final = _ADDING | {Operation.MERGE, Operation.REMOVE}
OPERATIONS: Final[Mapping[ApplyTo, frozenset[Operation]]] = {
    ApplyTo.LISTENER: frozenset((Operation.MERGE,)),
    ApplyTo.FILTER_CHAIN: frozenset((Operation.MERGE,)),
    ApplyTo.NETWORK_FILTER: _FILTERS,
    ApplyTo.HTTP_FILTER: _FILTERS,
    ApplyTo.ROUTE_CONFIGURATION: frozenset((Operation.MERGE,)),
    ApplyTo.VIRTUAL_HOST: frozenset((Operation.MERGE, Operation.ADD, Operation.REMOVE, Operation.REPLACE)),
    ApplyTo.HTTP_ROUTE: _FILTERS - {Operation.REPLACE},
    ApplyTo.CLUSTER: frozenset((Operation.MERGE, Operation.ADD, Operation.REMOVE)),
}
"""What may be done to what."""
MANAGER_NAME: Final = "envoy.filters.network.http_connection_manager"
AHEAD: Final = frozenset(("envoy.filters.http.cors", "envoy.filters.http.jwt_authn"))
"""HTTP filters that stand ahead of what secures, or among it."""
_NAMING: Final = frozenset((Operation.REPLACE, Operation.REMOVE, Operation.MERGE))
"""Operations on what is there, and so must be named."""
MAX_BYTES: Final = 64 * 1024
_MAX_DEPTH: Final = 64


class ReadPatch(Struct, frozen=True):
    """A patch with its message; REMOVE has none."""

    apply_to: ApplyTo
    operation: Operation
    match: PatchMatch
    filter_class: FilterClass
    message: Message = None

    @property
    def sub_filter(self) -> str:
        """The HTTP filter that it is about."""
        if self.match.waypoint is not None:
            return self.match.waypoint.filter.sub_filter.name
        return self.match.listener.filter_chain.filter.sub_filter.name if self.match.listener is not None else ""

    @property
    def filter(self) -> str:
        """The network filter that it is about."""
        if self.match.waypoint is not None:
            return self.match.waypoint.filter.name
        return self.match.listener.filter_chain.filter.name if self.match.listener is not None else ""


def read_patch(patch: ConfigPatch) -> ReadPatch:
    """Raises PatchError, with words for its author."""
    operations = OPERATIONS.get(patch.apply_to)
    if operations is None:
        raise PatchError(f"applyTo {patch.apply_to} is not taken: {_UNTAKEN[patch.apply_to]}")
    operation = patch.patch.operation
    if operation not in operations:
        raise PatchError(f"{patch.apply_to} can't be patched by {operation} here, but by {', '.join(sorted(operations))}")
    _check_context(patch)
    message = None
    if operation is not Operation.REMOVE:
        message = _message(_MESSAGES[patch.apply_to], patch.patch.value)
        secure(message)
        if message.ByteSize() > MAX_BYTES:
            raise PatchError(f"has more than {MAX_BYTES // 1024} KiB: each place that it holds at would have as much")
    found = ReadPatch(patch.apply_to, operation, patch.match, patch.patch.filter_class, message)
    if operation in _ADDING:
        check_inserted(patch.apply_to, message)
    elif message is not None:
        check_fields(patch.apply_to, message, at_gateways=patch.match.context is PatchContext.GATEWAY)
    _check_place(found)
    return found


_UNTAKEN: Final[Mapping[ApplyTo, str]] = {
    ApplyTo.LISTENER_FILTER: "what comes before a connection's filters is the mesh's; at gateways LISTENER takes proxy_protocol by MERGE",
    ApplyTo.EXTENSION_CONFIG: "write the extension in the patch that uses it, or a WasmPlugin",
    ApplyTo.BOOTSTRAP: "how an Envoy starts is said by who runs it",
}


_LISTENERS: Final = (ListenerMatch, WaypointMatch)
_ROUTES: Final = (RouteConfigurationMatch, WaypointMatch)
_MATCHED: Final[Mapping[ApplyTo, tuple[type, ...]]] = {
    **dict.fromkeys((ApplyTo.LISTENER, ApplyTo.FILTER_CHAIN, ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER), _LISTENERS),
    **dict.fromkeys((ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE), _ROUTES),
    ApplyTo.CLUSTER: (ClusterMatch, WaypointMatch),
}
"""By what each is matched: a match of something else would be none, and the patch hold for all."""


def _check_context(patch: ConfigPatch) -> None:
    match = patch.match
    stated = [one for one in (match.listener, match.route_configuration, match.cluster, match.waypoint) if one is not None]
    if len(stated) > 1:
        raise PatchError("has several of listener, routeConfiguration, cluster and waypoint: one may be matched")
    if stated and not isinstance(stated[0], _MATCHED[patch.apply_to]):
        raise PatchError(f"{patch.apply_to} is not matched by {type(stated[0]).__name__.removesuffix('Match')}")
    if match.waypoint is not None and match.context is not PatchContext.WAYPOINT:
        raise PatchError("waypoint is matched in the context WAYPOINT alone")
    if patch.apply_to is ApplyTo.LISTENER and match.context is PatchContext.WAYPOINT:
        raise PatchError("a waypoint's listeners are those of all its services: patch FILTER_CHAIN, NETWORK_FILTER or HTTP_FILTER")
    if patch.patch.filter_class is not FilterClass.UNSPECIFIED and (
        patch.apply_to is not ApplyTo.HTTP_FILTER or patch.patch.operation is not Operation.ADD
    ):
        raise PatchError("filterClass is for ADD of an HTTP_FILTER")


def _message(kind: str, value: dict[str, Any]) -> Message:
    if not value:
        raise PatchError("has no value")
    try:
        return json_format.ParseDict(_plain_types(value, 0), message_class(kind)(), descriptor_pool=pool())
    except PatchError:
        raise
    except (json_format.ParseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PatchError(f"is no {kind.rpartition('.')[2]}: {str(error)[:300]}") from error


def _plain_types(value: Any, depth: int) -> Any:
    """With TypedStruct, which says a type and leaves its fields untold, as what it stands for: so that all of it is read."""
    if depth > _MAX_DEPTH:
        raise PatchError(f"is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, list):
        return [_plain_types(one, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _plain_types(one, depth + 1) for key, one in value.items()}
    stated = inner.get("@type")
    if not isinstance(stated, str) or stated.rpartition("/")[2] not in {"udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"}:
        return inner
    fields, kind = inner.get("value", {}), inner.get("type_url", inner.get("typeUrl"))
    if not isinstance(fields, dict) or not isinstance(kind, str):
        raise PatchError("a TypedStruct has a type_url and a value")
    return {**fields, "@type": kind}


# ---- where a filter may stand


def _check_place(patch: ReadPatch) -> None:
    if patch.apply_to is ApplyTo.HTTP_FILTER:
        _check_http_place(patch)
    elif patch.apply_to is ApplyTo.NETWORK_FILTER and patch.operation in _NAMING and not patch.filter:
        raise PatchError(f"{patch.operation} needs the name of a filter in its match")


def _check_http_place(patch: ReadPatch) -> None:
    name = patch.sub_filter
    if patch.filter not in {"", MANAGER_NAME, MANAGER}:
        raise PatchError(f"HTTP filters are those of {MANAGER_NAME}: match it, or no filter")
    if patch.operation in _NAMING:
        if not name:
            raise PatchError(f"{patch.operation} needs the name of an HTTP filter (subFilter) in its match")
        return
    config = opened(patch.message.typed_config)
    if config.DESCRIPTOR.full_name not in LIMITING and is_ahead(patch):
        what = f"a {type_name(patch.message.typed_config).rpartition('.')[2]} can't stand ahead of what secures requests"
        raise PatchError(f"{what}: INSERT_BEFORE envoy.filters.http.router, or ADD with filterClass AUTHZ")


def is_ahead(patch: ReadPatch) -> bool:
    """Whether a filter that is added would stand ahead of what secures requests, or among it."""
    name = patch.sub_filter
    match patch.operation:
        case Operation.INSERT_FIRST:
            return True
        case Operation.INSERT_BEFORE:
            return not name or name in AHEAD or name in {"envoy.filters.http.rbac", "envoy.filters.http.ext_authz"}
        case Operation.INSERT_AFTER:
            return name in AHEAD
        case _:
            return patch.filter_class is FilterClass.AUTHN
