"""EnvoyFilters as tests write them."""

import json
from typing import Any

TYPES = "type.googleapis.com/envoy.extensions"
MANAGER = "envoy.filters.network.http_connection_manager"
ROUTER = "envoy.filters.http.router"


def typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{TYPES}.{kind}", **fields}


def http_filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": typed(f"filters.http.{kind}", **fields)}


def lua(code: str, name: str = "envoy.filters.http.lua") -> dict[str, Any]:
    return http_filter(name, "lua.v3.Lua", default_source_code={"inline_string": code})


def patch(apply_to: str, operation: str, value: dict[str, Any] | None = None, filter_class: str = "", **match: Any) -> dict[str, Any]:
    changed: dict[str, Any] = {"operation": operation}
    if value is not None:
        changed["value"] = value
    if filter_class:
        changed["filterClass"] = filter_class
    return {"applyTo": apply_to, "match": match, "patch": changed} if match else {"applyTo": apply_to, "patch": changed}


def inserted(value: dict[str, Any], operation: str = "INSERT_BEFORE", sub_filter: str = ROUTER) -> dict[str, Any]:
    """An HTTP filter ahead of the router, as Istio's documents write it for waypoints."""
    found: dict[str, Any] = {"name": MANAGER}
    if sub_filter:
        found["subFilter"] = {"name": sub_filter}
    return patch("HTTP_FILTER", operation, value, context="WAYPOINT", waypoint={"filter": found})


def envoy_filter(name: str, *patches: dict[str, Any], namespace: str = "shop", services: tuple[str, ...] = (), **spec: Any) -> str:
    """YAML, which JSON is."""
    if services:
        spec["targetRefs"] = [{"kind": "Service", "group": "", "name": one} for one in services]
    manifest = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"configPatches": list(patches), **spec},
    }
    return json.dumps(manifest)
