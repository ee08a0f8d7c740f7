"""Fields that have another name today, or another place: renewed in an object of a kind that is still there, ahead of all that reads it.

Where a field changed its meaning with its name, what it meant then is written. What was said in both ways stays as it is in the new
one, and says so. Sources: the reference of `networking.istio.io/v1alpha3` from Istio 0.8 on, and the deprecation notes since.
"""

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Final

from control.validation.finding import Remark, Severity, warning

Manifest = dict[str, Any]
Path = tuple[str | int, ...]

FREE_KEYS: Final = frozenset(
    {
        "labels", "annotations", "matchLabels", "sourceLabels", "selector", "options", "headers", "withoutHeaders", "queryParams", "set",
        "add", "to", "distribute", "properties",
    }
)  # fmt: skip
"""Fields whose keys are the user's own: `x_trace` in there is no field's former name."""
_SNAKE: Final = re.compile(r"[a-z0-9]+(_[a-z0-9]+)+")
_APPENDED: Final = {
    "appendHeaders": ("request", "add"),
    "appendRequestHeaders": ("request", "add"),
    "removeRequestHeaders": ("request", "remove"),
    "appendResponseHeaders": ("response", "add"),
    "removeResponseHeaders": ("response", "remove"),
}
_MAX_DEPTH: Final = 64


def renew(kind: str, manifest: Manifest) -> tuple[Manifest, list[Remark]]:
    """The manifest in today's words, and a warning (or an error) for each that was another; the given one is left as it is.

    `kind` is the object's; one without former names comes back as it was.
    """
    renewer = _RENEWERS.get(kind)
    spec = manifest.get("spec")
    if renewer is None or not isinstance(spec, dict):
        return manifest, []
    renewed = deepcopy(manifest)
    remarks = list(_camel(renewed["spec"], ("spec",)))
    remarks += renewer(renewed["spec"], ("spec",))
    return (renewed, remarks) if remarks else (manifest, [])


def in_json_names(manifest: Manifest) -> Manifest:
    """A copy whose specification has JSON's names where it had protobuf's own, for kinds that are gone."""
    renewed = deepcopy(manifest)
    for _ in _camel(renewed.get("spec"), ("spec",)):
        pass  # There is nothing to say of each: all of it becomes something else.
    return renewed


def renewed_path(remark: Remark) -> Path:
    """Where what a warning is about stands after protobuf's name was changed for JSON's."""
    *holder, last = remark.path
    return (*holder, _json_name(last) if isinstance(last, str) else last)


def _json_name(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _camel(value: Any, path: Path) -> Iterator[Remark]:
    """Protobuf's own names (`per_try_timeout`) were taken as well as JSON's."""
    if len(path) > _MAX_DEPTH:
        return
    match value:
        case dict():
            for key in list(value):
                name = key
                if isinstance(key, str) and _SNAKE.fullmatch(key) and path[-1] not in FREE_KEYS:
                    name = _json_name(key)
                    yield from _rename(value, path, key, name)
                if name in value:
                    yield from _camel(value[name], (*path, name))
        case list():
            for index, item in enumerate(value):
                yield from _camel(item, (*path, index))


def _virtual_service(spec: Manifest, path: Path) -> Iterator[Remark]:
    for index, route in _maps(spec, "http"):
        here: Path = (*path, "http", index)
        yield from _header_operations(route, here)
        for at, destination in _maps(route, "route"):
            yield from _header_operations(destination, (*here, "route", at))
        if "websocketUpgrade" in route:
            del route["websocketUpgrade"]
            yield warning((*here, "websocketUpgrade"), "websocketUpgrade is not needed: upgrades pass", "remove it")
        yield from _move(route, here, "mirrorPercent", "mirrorPercentage", _percentage)
        yield from _faults(route, here)
        cors = route.get("corsPolicy")
        if isinstance(cors, dict):
            yield from _move(cors, (*here, "corsPolicy"), "allowOrigin", "allowOrigins", _origins)
        for at, match in _maps(route, "match"):
            yield from _header_matches(match, (*here, "match", at))


def _destination_rule(spec: Manifest, path: Path) -> Iterator[Remark]:
    yield from _traffic_policy(spec.get("trafficPolicy"), (*path, "trafficPolicy"))
    for index, subset in _maps(spec, "subsets"):
        yield from _traffic_policy(subset.get("trafficPolicy"), (*path, "subsets", index, "trafficPolicy"))


def _traffic_policy(policy: Any, path: Path) -> Iterator[Remark]:
    if not isinstance(policy, dict):
        return
    yield from _balancing(policy.get("loadBalancer"), (*path, "loadBalancer"))
    yield from _outliers(policy.get("outlierDetection"), (*path, "outlierDetection"))
    for index, port in _maps(policy, "portLevelSettings"):
        yield from _traffic_policy(port, (*path, "portLevelSettings", index))


def _balancing(balancer: Any, path: Path) -> Iterator[Remark]:
    if not isinstance(balancer, dict):
        return
    if balancer.get("simple") == "LEAST_CONN":
        balancer["simple"] = "LEAST_REQUEST"
        yield _said((*path, "simple"), "LEAST_CONN", "LEAST_REQUEST")
    yield from _move(balancer, path, "warmupDurationSecs", "warmup", lambda value: {"duration": value})
    hashing = balancer.get("consistentHash")
    if isinstance(hashing, dict):
        here = (*path, "consistentHash")
        yield from _move(hashing, here, "minimumRingSize", "ringHash", lambda value: {"minimumRingSize": value})


def _outliers(outliers: Any, path: Path) -> Iterator[Remark]:
    if not isinstance(outliers, dict):
        return
    nested = outliers.get("http")
    if isinstance(nested, dict):
        del outliers["http"]
        yield warning((*path, "http"), "outlierDetection.http is outlierDetection itself today", "move its fields up")
        for name, value in nested.items():
            outliers.setdefault(name, value)
    if "consecutiveErrors" in outliers:
        # It counted 502, 503 and 504, and took the place of the count of all 5xx.
        others = [name for name in ("consecutiveGatewayErrors", "consecutive5xxErrors") if name in outliers]
        yield from _move(outliers, path, "consecutiveErrors", "consecutiveGatewayErrors", lambda value: value)
        if not others:
            outliers["consecutive5xxErrors"] = 0


def _header_operations(holder: Manifest, path: Path) -> Iterator[Remark]:
    for former, (direction, operation) in _APPENDED.items():
        headers = holder.get("headers", {})
        place = headers.get(direction, {}) if isinstance(headers, dict) else None
        if former not in holder or not isinstance(headers, dict) or not isinstance(place, dict):
            # What is malformed is told of as it is.
            continue
        value = holder.pop(former)
        holder["headers"], headers[direction] = headers, place
        new = f"headers.{direction}.{operation}"
        if operation in place:
            yield Remark((*path, former), f"both {former} and {new} are there", f"keep {new} alone")
            continue
        place[operation] = value
        yield _said((*path, former), former, new)


def _faults(route: Manifest, path: Path) -> Iterator[Remark]:
    fault = route.get("fault")
    for name in ("delay", "abort"):
        part = fault.get(name) if isinstance(fault, dict) else None
        if isinstance(part, dict):
            yield from _move(part, (*path, "fault", name), "percent", "percentage", _percentage)


def _header_matches(match: Manifest, path: Path) -> Iterator[Remark]:
    """A value without a type of match was an exact one in the oldest documents; with nothing at all it asks for the header's presence."""
    for field in ("headers", "withoutHeaders", "queryParams"):
        values = match.get(field)
        if not isinstance(values, dict):
            continue
        for name, value in values.items():
            if isinstance(value, str):
                values[name] = {"exact": value}
                yield warning((*path, field, name), f"{str(name)[:80]!r} is matched without a type", "write `exact:` before its value")
            elif value is None:
                values[name] = {}
                yield warning((*path, field, name), f"{str(name)[:80]!r} is matched without a type", "write `{}` to ask for its presence")


def _move(holder: Manifest, path: Path, former: str, name: str, form: Callable[[Any], Any]) -> Iterator[Remark]:
    if former not in holder:
        return
    value = holder.pop(former)
    if name in holder:
        yield Remark((*path, former), f"both {former} and {name} are there", f"keep {name} alone")
        return
    holder[name] = form(value)
    yield _said((*path, former), former, name)


def _rename(holder: Manifest, path: Path, former: str, name: str) -> Iterator[Remark]:
    yield from _move(holder, path, former, name, lambda value: value)


def _percentage(value: Any) -> Any:
    return {"value": value}


def _origins(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [{"regex": ".*"} if origin == "*" else {"exact": origin} for origin in value]


def _said(path: Path, former: str, name: str) -> Remark:
    return Remark(path, f"{former} is a former form of {name}", f"write {name}", Severity.WARNING)


def _maps(holder: Manifest, field: str) -> Iterator[tuple[int, Manifest]]:
    """The entries of a list that are maps, with their places."""
    items = holder.get(field)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield index, item


def _nothing(_spec: Manifest, _path: Path) -> Iterator[Remark]:
    return iter(())


_RENEWERS: Final[dict[str, Callable[[Manifest, Path], Iterator[Remark]]]] = {
    "VirtualService": _virtual_service,
    "DestinationRule": _destination_rule,
    "ServiceEntry": _nothing,
    "WorkloadEntry": _nothing,
    "WorkloadGroup": _nothing,
    "Gateway": _nothing,
}
"""Where there is nothing: only protobuf's names."""
