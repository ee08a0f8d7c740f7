"""What stands in the status of policies, entries, routing and telemetry: pure functions from what the mesh says and what stands there."""

from typing import Any, Final

from msgspec import Struct

from control.kinds import Kind
from control.model.status import Description
from control.validation.document import Manifest

PREFIX: Final = "nodemesh.io/"
"""Conditions without it are somebody else's, and stay as they are."""
POLICIES: Final = frozenset({Kind.AUTHORIZATION_POLICY, Kind.PEER_AUTHENTICATION})
KINDS: Final = POLICIES | {
    Kind.SERVICE_ENTRY,
    Kind.WORKLOAD_ENTRY,
    Kind.VIRTUAL_SERVICE,
    Kind.DESTINATION_RULE,
    Kind.ENVOY_FILTER,
    Kind.WASM_PLUGIN,
    Kind.TELEMETRY,
    Kind.RATE_LIMIT,
}
MAX_MESSAGE: Final = 2000
_ENFORCED: Final = ("Enforced", "all of it is enforced")
_SERVED: Final = ("Served", "all of it is served")


class StatusPatch(Struct, frozen=True):
    """The new conditions of one object, of the version that they were made from."""

    api_version: str
    kind: Kind
    namespace: str
    name: str
    version: str
    conditions: tuple[dict[str, Any], ...]

    @property
    def body(self) -> dict[str, Any]:
        """A merge patch that the API server refuses (409) if the object is another one by now."""
        return {"metadata": {"resourceVersion": self.version}, "status": {"conditions": list(self.conditions)}}


def patch_for(description: Description, written: Manifest, now: str) -> StatusPatch | None:
    """What to write, None if it stands in the object (`written`) already. `now`: RFC 3339, for conditions that change."""
    meta = written.get("metadata")
    meta = meta if isinstance(meta, dict) else {}
    stated = [one for one in _stated(written) if isinstance(one, dict)]
    others = [one for one in stated if not str(one.get("type", "")).startswith(PREFIX)]
    before = {one["type"]: one for one in stated if str(one.get("type", "")).startswith(PREFIX)}
    own = [_with_time(one, before.get(one["type"]), now) for one in _conditions(description, meta.get("generation"))]
    if [before.get(one["type"]) for one in own] == own and len(before) == len(own):
        return None
    return StatusPatch(
        api_version=str(written.get("apiVersion", "")),
        kind=Kind(description.kind),
        namespace=description.namespace,
        name=description.name,
        version=str(meta.get("resourceVersion", "")),
        conditions=(*others, *own),
    )


def _stated(manifest: Manifest) -> list[Any]:
    status = manifest.get("status")
    stated = status.get("conditions") if isinstance(status, dict) else None
    return stated if isinstance(stated, list) else []


def _conditions(description: Description, generation: object) -> list[dict[str, Any]]:
    found = {one.type: one for one in description.conditions}
    accepted, limits, bound = found["Accepted"], found.get("Warnings"), found.get("Bound")
    made = [_condition("Accepted", accepted.status, accepted.reason, accepted.message)]
    if accepted.status == "True":
        effect, whole = _ENFORCED if description.kind in POLICIES else _SERVED
        made.append(_condition(effect, "False" if limits else "True", "Limited" if limits else effect, limits.message if limits else whole))
    if bound is not None:
        made.append(_condition("Bound", bound.status, bound.reason if bound.status == "True" else f"No{bound.reason}", bound.message))
    return [one | ({"observedGeneration": generation} if isinstance(generation, int) else {}) for one in made]


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {"type": f"{PREFIX}{kind}", "status": status, "reason": reason, "message": message[:MAX_MESSAGE]}


def _with_time(condition: dict[str, Any], before: dict[str, Any] | None, now: str) -> dict[str, Any]:
    """The time is that of the last change of `status`, as for all conditions of Kubernetes."""
    same = before is not None and before.get("status") == condition["status"] and isinstance(before.get("lastTransitionTime"), str)
    return condition | {"lastTransitionTime": before["lastTransitionTime"] if before is not None and same else now}
