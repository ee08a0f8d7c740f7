"""What stands in for patches that can't be applied where they may have decided about requests: all are denied."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from control.kinds import EnvoyFilter, MeshObject, ObjectKey, WasmPlugin
from control.kinds.envoy_filter import ApplyTo, ConfigPatch, EnvoyFilterSpec, FilterClass, Operation, Patch, WorkloadSelector
from control.kinds.metadata import Meta
from control.kinds.security import PolicyTarget, Selector
from control.kinds.wasm_plugin import FailStrategy, WasmPluginSpec

DECIDING: Final = ("Lua", "ExtAuthz", "ExternalProcessor", "RBAC", "JwtAuthentication", "ApiKeyAuth", "BasicAuth")
"""Filters that may be there to refuse requests, by the end of their types."""
_TYPES: Final = "type.googleapis.com/envoy.extensions.filters"
_REQUESTS: Final = {"name": "closed", "typed_config": {"@type": f"{_TYPES}.http.rbac.v3.RBAC", "rules": {}}}
_CONNECTIONS: Final = {
    "name": "closed",
    "typed_config": {"@type": f"{_TYPES}.network.rbac.v3.RBAC", "stat_prefix": "closed.", "rules": {}},
}
_DENIALS: Final = {
    ApplyTo.HTTP_FILTER: ConfigPatch(ApplyTo.HTTP_FILTER, Patch(Operation.ADD, _REQUESTS, FilterClass.AUTHZ)),
    ApplyTo.NETWORK_FILTER: ConfigPatch(ApplyTo.NETWORK_FILTER, Patch(Operation.INSERT_FIRST, _CONNECTIONS)),
}


def closed(item: MeshObject) -> MeshObject | None:
    """An object's form that denies; None if it decides about nothing."""
    if isinstance(item, WasmPlugin):
        missed = item.spec.fail_strategy is FailStrategy.FAIL_OPEN
        return None if missed else msgspec.structs.replace(item, spec=msgspec.structs.replace(item.spec, url=""))
    if not isinstance(item, EnvoyFilter):
        return None
    denials = _denials((one.apply_to, one.patch.value) for one in item.spec.config_patches)
    return EnvoyFilter(item.metadata, msgspec.structs.replace(item.spec, config_patches=denials)) if denials else None


def closed_filter(key: ObjectKey, spec: dict[str, Any], targets: tuple[PolicyTarget, ...]) -> EnvoyFilter | None:
    """That of an object which can't be understood. What it is for can be read, or it is for its whole namespace."""
    stated = spec.get("configPatches")
    patches = [one for one in stated if isinstance(one, dict)] if isinstance(stated, list) else []
    denials = _denials((one.get("applyTo"), one) for one in patches) if patches else tuple(_DENIALS.values())
    if not denials:
        return None
    try:
        selector = None if targets else msgspec.convert(spec.get("workloadSelector"), WorkloadSelector | None)
    except msgspec.ValidationError:
        selector = None
    meta = Meta(key.name, key.namespace)
    return EnvoyFilter(meta, EnvoyFilterSpec(selector if selector and selector.labels else None, targets, denials))


def closed_plugin(key: ObjectKey, spec: dict[str, Any], selector: Selector | None, targets: tuple[PolicyTarget, ...]) -> WasmPlugin | None:
    """Likewise of a plugin, unless it may be missed."""
    if spec.get("failStrategy") == FailStrategy.FAIL_OPEN:
        return None
    return WasmPlugin(metadata=Meta(key.name, key.namespace), spec=WasmPluginSpec("", None if targets else selector, target_refs=targets))


def _denials(patches: Iterable[tuple[Any, Any]]) -> tuple[ConfigPatch, ...]:
    """Of requests where a filter of requests decides, of connections where one of connections does."""
    found = {what for what, value in patches if _decides(value)}
    return tuple(denial for what, denial in _DENIALS.items() if what in found)


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
