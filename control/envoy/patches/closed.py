"""What stands in for patches that can't be applied where they may have decided about requests: all are denied."""

from typing import Any, Final

import msgspec

from control.kinds import EnvoyFilter, MeshObject, ObjectKey
from control.kinds.envoy_filter import ApplyTo, ConfigPatch, EnvoyFilterSpec, FilterClass, Operation, Patch, WorkloadSelector
from control.kinds.metadata import Meta
from control.kinds.security import PolicyTarget

DECIDING: Final = ("Lua", "ExtAuthz", "ExternalProcessor", "RBAC", "JwtAuthentication", "ApiKeyAuth", "BasicAuth")
"""Filters that may be there to refuse requests, by the end of their types."""
_TYPES: Final = "type.googleapis.com/envoy.extensions.filters.http"
_DENIAL: Final = ConfigPatch(
    ApplyTo.HTTP_FILTER,
    Patch(Operation.ADD, {"name": "closed", "typed_config": {"@type": f"{_TYPES}.rbac.v3.RBAC", "rules": {}}}, FilterClass.AUTHZ),
)


def closed(item: MeshObject) -> MeshObject | None:
    """An object's form that denies; None if it decides about nothing."""
    if not isinstance(item, EnvoyFilter):
        return None
    decides = any(_decides(one.patch.value) for one in item.spec.config_patches)
    return EnvoyFilter(item.metadata, msgspec.structs.replace(item.spec, config_patches=(_DENIAL,))) if decides else None


def closed_filter(key: ObjectKey, spec: dict[str, Any], targets: tuple[PolicyTarget, ...]) -> EnvoyFilter | None:
    """That of an object which can't be understood. What it is for can be read, or it is for its whole namespace."""
    if spec and not _decides(spec):
        return None
    try:
        selector = None if targets else msgspec.convert(spec.get("workloadSelector"), WorkloadSelector | None)
    except msgspec.ValidationError:
        selector = None
    meta = Meta(key.name, key.namespace)
    return EnvoyFilter(meta, EnvoyFilterSpec(selector if selector and selector.labels else None, targets, (_DENIAL,)))


def _decides(value: Any) -> bool:
    """Whether a filter that decides is named somewhere."""
    match value:
        case dict():
            return any(_decides(one) for one in value.values())
        case list():
            return any(_decides(one) for one in value)
        case str():
            return value.startswith("type.googleapis.com/") and value.rpartition(".")[2] in DECIDING
    return False
