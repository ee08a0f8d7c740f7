"""The status of Gateways and their routes as it is to stand in Kubernetes: pure functions from what is to be said and what stands there.

Conditions keep the time of their last change. Of a route's parents those that another controller speaks for stay as they are.
"""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from control.envoy.gateways.status import GatewayState, ParentState, Said
from control.kinds.gateway import GROUP
from control.kinds.gateway_routes import ParentReference
from control.validation.document import Manifest

MAX_MESSAGE = 2000
_OURS = frozenset({"Accepted", "ResolvedRefs", "Programmed", "Conflicted"})


class Patch(Struct, frozen=True):
    """The new status of one object, of the version that it was made from."""

    version: str
    status: dict[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        """A merge patch that the API server refuses (409) if the object is another one by now."""
        return {"metadata": {"resourceVersion": self.version}, "status": self.status}


def gateway_patch(state: GatewayState, written: Manifest, now: str) -> Patch | None:
    """What to write, None if it stands there. `now`: RFC 3339, for conditions that change."""
    before = _map(written.get("status"))
    generation = _map(written.get("metadata")).get("generation")
    stated = {one.get("name"): one for one in _maps(before.get("listeners"))}
    listeners = [
        {
            "name": one.name,
            "supportedKinds": [{"group": GROUP, "kind": kind} for kind in one.kinds],
            "attachedRoutes": one.attached,
            "conditions": _conditions(one.conditions, _maps(stated.get(one.name, {}).get("conditions")), generation, now),
        }
        for one in state.listeners
    ]
    status: dict[str, Any] = {
        "conditions": _conditions(state.conditions, _maps(before.get("conditions")), generation, now),
        "listeners": listeners,
        "addresses": [{"type": one.type, "value": one.value} for one in state.addresses],
    }
    return _patch(status, before, written)


def route_patch(states: Iterable[ParentState], written: Manifest, now: str) -> Patch | None:
    """Likewise of a route."""
    before = _map(written.get("status"))
    generation = _map(written.get("metadata")).get("generation")
    parents = _maps(before.get("parents"))
    found = list(states)
    ours = {one.controller for one in found}
    made = [one for one in parents if one.get("controllerName") not in ours | _speakers(written)]
    for one in found:
        reference = _reference(one.parent)
        same = (each for each in parents if each.get("controllerName") == one.controller and _map(each.get("parentRef")) == reference)
        stated = _maps(next(same, {}).get("conditions"))
        conditions = _conditions(one.conditions, stated, generation, now)
        made.append({"parentRef": reference, "controllerName": one.controller, "conditions": conditions})
    if not made and not parents:
        return None
    return _patch({"parents": made}, before, written)


def class_patch(written: Manifest, now: str) -> Patch | None:
    """Of a class that the mesh answers for."""
    before = _map(written.get("status"))
    accepted = Said("Accepted", holds=True, reason="Accepted")
    generation = _map(written.get("metadata")).get("generation")
    return _patch({"conditions": _conditions((accepted,), _maps(before.get("conditions")), generation, now)}, before, written)


def stated_parents(written: Manifest) -> tuple[ParentReference, ...]:
    """Those that a route names which may be anything but valid; what is no reference is none."""
    found = []
    for one in _maps(_map(written.get("spec")).get("parentRefs")):
        with contextlib.suppress(msgspec.ValidationError):
            found.append(msgspec.convert(one, ParentReference))
    return tuple(found)


def stated_class(written: Manifest) -> str:
    """Likewise of a Gateway."""
    return str(_map(written.get("spec")).get("gatewayClassName", ""))


def _speakers(written: Manifest) -> set[str]:
    """In whose names we may have spoken before: nobody else's words are taken away."""
    stated = {str(one.get("controllerName")) for one in _maps(_map(written.get("status")).get("parents"))}
    return {one for one in stated if one.startswith("nodemesh.io/")}


def _reference(parent: ParentReference) -> dict[str, Any]:
    """As the route states it, with the defaults that the API server fills in."""
    fields: dict[str, Any] = msgspec.to_builtins(parent)
    return {name: value for name, value in fields.items() if value or name == "group"}


def _conditions(said: Iterable[Said], before: list[dict[str, Any]], generation: object, now: str) -> list[dict[str, Any]]:
    stated = {one.get("type"): one for one in before}
    made = []
    for one in said:
        status = "True" if one.holds else "False"
        former = stated.get(one.type, {})
        since = former.get("lastTransitionTime") if former.get("status") == status else None
        condition = {"type": one.type, "status": status, "reason": one.reason, "message": one.message[:MAX_MESSAGE]}
        condition["lastTransitionTime"] = since if isinstance(since, str) else now
        made.append(condition | ({"observedGeneration": generation} if isinstance(generation, int) else {}))
    return [*(one for one in before if one.get("type") not in _OURS), *made]


def _patch(status: dict[str, Any], before: Mapping[str, Any], written: Manifest) -> Patch | None:
    if all(before.get(name) == value for name, value in status.items()):
        return None
    return Patch(str(_map(written.get("metadata")).get("resourceVersion", "")), status)


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _maps(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
