"""Tells in the status of Services whether they are reached through the waypoint that they ask for, by Istio's own condition."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from control.kinds import Kind, ObjectKey, Service
from control.model.mesh import Mesh
from control.model.waypoint_store import Bound
from kubeapi.client import STRATEGIC_MERGE_PATCH, APIError, KubeClient

CONDITION: Final = "istio.io/WaypointBound"
A_ROUND: Final = 200
"""What is more waits for the next round."""
YIELD_EVERY: Final = 200
log = logging.getLogger(__name__)


class ConditionPatch(Struct, frozen=True):
    """What is to change of one Service's condition; `condition` None takes it away. Comes out the same whoever writes it."""

    namespace: str
    name: str
    condition: dict[str, str] | None

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/services/{self.name}/status"

    @property
    def body(self) -> dict[str, Any]:
        """Conditions are merged by their type: all others stay."""
        item = self.condition or {"type": CONDITION, "$patch": "delete"}
        return {"status": {"conditions": [item]}}


def patch_for(service: Service, bound: Bound, now: str) -> ConditionPatch | None:
    """What to write, None if it stands there already. `now`: RFC 3339, for a condition that changes."""
    stated = next((one for one in service.status.conditions if one.type == CONDITION), None)
    wanted = _condition(bound)
    meta = service.metadata
    if wanted is None:
        return ConditionPatch(meta.namespace, meta.name, None) if stated is not None else None
    if stated is not None and (stated.status, stated.reason, stated.message) == wanted:
        return None
    status, reason, message = wanted
    since = stated.last_transition_time if stated is not None and stated.status == status else None
    found = {"type": CONDITION, "status": status, "reason": reason, "message": message, "lastTransitionTime": since or now}
    return ConditionPatch(meta.namespace, meta.name, found)


def _condition(bound: Bound) -> tuple[str, str, str] | None:
    """Status, reason and message; None for a service that asks for no waypoint."""
    binding = bound.binding
    if binding.wanted is None:
        return None
    if binding.waypoint is None:
        return "False", binding.reason, binding.message
    gateways = "" if bound.ingress or bound.guarded else "; gateways go past it unless the label istio.io/ingress-use-waypoint says true"
    return "True", "WaypointAccepted", f"reached through the waypoint {binding.wanted.namespace}/{binding.wanted.name}{gateways}"


class WaypointStatus:
    """Implements Duty."""

    def __init__(self, client: KubeClient, mesh: Mesh) -> None:
        self._client = client
        self._mesh = mesh
        self._seen_batches = -1

    async def round(self) -> None:
        """Once over all services, if anything has changed; only what differs is written."""
        if self._mesh.batches == self._seen_batches:
            return
        batches, settled = self._mesh.batches, True
        written = 0
        for count, patch in enumerate(self._patches(), start=1):
            if patch is not None:
                settled &= await self._write(patch)
                written += 1
            if written >= A_ROUND:
                return
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        if settled:
            self._seen_batches = batches

    def _patches(self) -> Iterator[ConditionPatch | None]:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        for key in [key for key in self._mesh.records if key.kind is Kind.SERVICE]:
            yield self._patch(key, now)

    def _patch(self, key: ObjectKey, now: str) -> ConditionPatch | None:
        service = self._mesh.store.get(key)
        return patch_for(service, self._mesh.store.waypoints.of(key), now) if isinstance(service, Service) else None

    async def _write(self, patch: ConditionPatch) -> bool:
        """Whether that is settled."""
        try:
            await self._client.request("PATCH", patch.path, body=patch.body, content_type=STRATEGIC_MERGE_PATCH)
        except APIError as error:
            if error.status != 404:
                log.warning("the status of Service %s/%s is not written: %s", patch.namespace, patch.name, error)
                return False
        return True
