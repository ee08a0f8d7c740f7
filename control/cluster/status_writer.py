"""Writes the conditions of policies, entries and routing into their status: all of them looked at in rounds, only what differs written."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from control.cluster.conditions import KINDS, StatusPatch, patch_for
from control.model.mesh import Mesh
from control.model.status import describe
from control.source.kubernetes.resources import status_path
from kubeapi.client import MERGE_PATCH, APIError, KubeClient

AT_ONCE: Final = 4
A_ROUND: Final = 200
"""What is more waits for the next round: a mesh of thousands of them does not flood the API server."""
YIELD_EVERY: Final = 20
REST: Final = 20
"""A round that took a second is followed by twenty without: what pods that come and go cost here has a bound."""
log = logging.getLogger(__name__)


class StatusWriter:
    """Implements Duty. A patch that is refused is made anew in the next round, from what the watch brought meanwhile."""

    def __init__(self, client: KubeClient, mesh: Mesh) -> None:
        self._client = client
        self._mesh = mesh
        self._seen_batches = -1
        self._rest_until_s = 0.0

    async def round(self) -> None:
        """Once over all of them, if anything has changed; and not more often than it has time for."""
        began_s = asyncio.get_running_loop().time()
        if self._mesh.batches == self._seen_batches or began_s < self._rest_until_s:
            return
        batches = self._mesh.batches
        patches = await self._differing()
        took_s = asyncio.get_running_loop().time() - began_s
        self._rest_until_s = began_s + took_s * REST
        turns = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            written = [tasks.create_task(self._write(patch, turns), name=f"status of {patch.namespace}/{patch.name}") for patch in patches]
        if len(patches) < A_ROUND and all(task.result() for task in written):
            self._seen_batches = batches

    async def _differing(self) -> list[StatusPatch]:
        patches: list[StatusPatch] = []
        for count, patch in enumerate(self._patches(), start=1):
            if patch is not None:
                patches.append(patch)
            if len(patches) >= A_ROUND:
                break
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return patches

    def _patches(self) -> Iterator[StatusPatch | None]:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        for key in [key for key in self._mesh.records if key.kind in KINDS]:
            record = self._mesh.records.get(key)
            description = describe(self._mesh, key.kind, key.namespace, key.name)
            yield patch_for(description, record.manifest, now) if record is not None and description is not None else None

    async def _write(self, patch: StatusPatch, turns: asyncio.Semaphore) -> bool:
        """Whether that is settled, or the watch will tell of it."""
        path = status_path(patch.api_version, patch.kind, patch.namespace, patch.name)
        async with turns:
            try:
                await self._client.request("PATCH", path, body=patch.body, content_type=MERGE_PATCH)
            except APIError as error:
                # It is gone, or another one by now.
                if error.status in {404, 409}:
                    return True
                log.warning("the status of %s %s/%s is not written: %s", patch.kind, patch.namespace, patch.name, error)
                return False
        return True
