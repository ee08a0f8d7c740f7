"""Entries of machines in the Kubernetes API. What another was first with is left alone: the watch brings it, and the next round looks."""

from typing import Final

from control.source.kubernetes.resources import object_path
from control.vm.plan import Delete, Put, PutStatus, Step
from control.vm.registrar import VERSION, EntryError, UnreachableError
from kubeapi.client import APIError, KubeClient

_OVERTAKEN: Final = frozenset({404, 409})


class ClusterEntries:
    """Implements Entries."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def put(self, step: Put) -> None:
        """Creates an entry that has no version yet, and replaces the version that it has; raises EntryError."""
        if step.manifest["metadata"].get("resourceVersion"):
            await self._request("PUT", _path(step), step.manifest)
        else:
            await self._request("POST", _path(step).rpartition("/")[0], step.manifest)

    async def put_status(self, step: PutStatus) -> None:
        """Raises EntryError."""
        await self._request("PUT", f"{_path(step)}/status", step.manifest)

    async def delete(self, step: Delete) -> None:
        """Of this version only; raises EntryError."""
        metadata = step.manifest["metadata"]
        preconditions = {name: metadata[name] for name in ("uid", "resourceVersion") if metadata.get(name)}
        await self._request("DELETE", _path(step), {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions})

    async def keep(self) -> None:
        """It is kept already."""

    async def _request(self, method: str, path: str, body: object) -> None:
        try:
            await self._client.request(method, path, body=body)
        except APIError as error:
            if error.status not in _OVERTAKEN:
                raise (EntryError if error.status else UnreachableError)(str(error)) from error


def _path(step: Step) -> str:
    """In the version in which it was read."""
    return object_path(str(step.manifest.get("apiVersion") or VERSION), step.key.kind, step.key.namespace, step.key.name)
