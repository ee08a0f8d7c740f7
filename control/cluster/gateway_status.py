"""Writes what becomes of Gateways and routes into their status: looked at in rounds, only what differs written."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from control.cluster.gateway_conditions import Patch, class_patch, gateway_patch, route_patch, stated_class, stated_parents
from control.envoy.credentials import Credential
from control.envoy.gateways.status import (
    ROUTES,
    GatewayState,
    gateway_state,
    is_ours,
    refused,
    refused_route,
    route_state,
    with_problem,
)
from control.envoy.world import World
from control.kinds import GatewayClass, Kind, ObjectKey
from control.model.mesh import Mesh, Record
from control.source.kubernetes.resources import status_path
from control.validation.finding import Severity
from kubeapi.client import MERGE_PATCH, APIError, KubeClient
from meshapi import wire

KINDS: Final = frozenset({Kind.GATEWAY, Kind.GATEWAY_CLASS, *ROUTES})
A_ROUND: Final = 200
"""What is more waits for the next round."""
YIELD_EVERY: Final = 20
REST: Final = 5
"""A round that took a second is followed by five without."""
log = logging.getLogger(__name__)


class Known(Struct, frozen=True):
    """What the mesh does not say: why nothing runs a Gateway, and why some certificates are not to be had."""

    not_run: dict[ObjectKey, str] = {}
    missing: dict[Credential, str] = {}


class GatewayStatus:
    """Implements Duty."""

    def __init__(self, client: KubeClient, mesh: Mesh, world: Callable[[], World], known: Callable[[], Known]) -> None:
        """`world` is asked for once there is something to tell of: a mesh without gateways needs none."""
        self._client = client
        self._mesh = mesh
        self._world = world
        self._known = known
        self._rest_until_s = 0.0
        self._seen: tuple[int, Known] | None = None

    async def round(self) -> None:
        """Once over all of them, if anything has changed."""
        state = self._mesh.batches, self._known()
        began_s = asyncio.get_running_loop().time()
        if state == self._seen or began_s < self._rest_until_s:
            return
        settled, written = True, 0
        for count, (key, api_version, patch) in enumerate(self._patches(), start=1):
            if patch is not None:
                settled &= await self._write(key, api_version, patch)
                written += 1
            if written >= A_ROUND:
                return
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        self._rest_until_s = began_s + (asyncio.get_running_loop().time() - began_s) * REST
        if settled:
            self._seen = state

    def _patches(self) -> Iterator[tuple[ObjectKey, str, Patch | None]]:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        for key in [key for key in self._mesh.records if key.kind in KINDS]:
            record = self._mesh.records.get(key)
            if record is None:
                continue
            try:
                patch = self._patch(key, record, now)
            except Exception:
                # A fault of ours with one object must not keep the others from being told of, nor end the controller.
                log.exception("what is to be said of %s can't be told", key)
                continue
            yield key, str(record.manifest.get("apiVersion", "")), patch

    def _patch(self, key: ObjectKey, record: Record, now: str) -> Patch | None:
        why = " ".join(f"{one.what}." for one in record.findings if one.severity is Severity.ERROR) if record.rejected else ""
        match key.kind:
            case Kind.GATEWAY:
                state = self._gateway(key, record, why)
                return gateway_patch(state, record.manifest, now) if state is not None else None
            case Kind.GATEWAY_CLASS:
                item = record.object
                return class_patch(record.manifest, now) if isinstance(item, GatewayClass) and is_ours(item) else None
        if record.rejected:
            return route_patch(refused_route(self._world(), key.namespace, stated_parents(record.manifest), why), record.manifest, now)
        return route_patch(route_state(self._world(), key), record.manifest, now)

    def _gateway(self, key: ObjectKey, record: Record, why: str) -> GatewayState | None:
        known = self._known()
        state = gateway_state(self._world(), key, known.missing)
        if record.rejected:
            return refused(state, why) if stated_class(record.manifest) in wire.GATEWAY_CLASSES | wire.WAYPOINT_CLASSES else None
        problem = known.not_run.get(key)
        return with_problem(state, problem) if state is not None and problem is not None else state

    async def _write(self, key: ObjectKey, api_version: str, patch: Patch) -> bool:
        """Whether that is settled, or the watch will tell of it."""
        path = status_path(api_version, key.kind, key.namespace, key.name)
        try:
            await self._client.request("PATCH", path, body=patch.body, content_type=MERGE_PATCH)
        except APIError as error:
            if error.status in {404, 409}:
                return True
            log.warning("the status of %s is not written: %s", key, error)
            return False
        return True
