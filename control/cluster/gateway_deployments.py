"""Makes and keeps what runs the Gateways in Kubernetes: looked at when the mesh changes, and from time to time, since nobody watches them.

Only what a Gateway owns is touched. One that is called like somebody's Deployment, Service or account gets neither.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.cluster.gateway_objects import Image, objects_for
from control.kinds import Gateway, Kind, ObjectKey
from control.model.mesh import Mesh
from control.validation.document import Manifest
from kubeapi.client import APPLY_PATCH, APIError, KubeClient
from meshapi import wire

MANAGER: Final = "nodemesh"
AGAIN_S: Final = 60.0
"""What was changed or deleted meanwhile is made right by then."""
RETRY_S: Final = 10.0
A_ROUND: Final = 50
"""Gateways; what is more waits for the next round."""
_PLURALS: Final = {"ServiceAccount": "serviceaccounts", "Service": "services", "Deployment": "deployments"}
log = logging.getLogger(__name__)


class _Owner(Struct, frozen=True):
    uid: str = ""


class _Meta(Struct, frozen=True, rename="camel"):
    uid: str = ""
    owner_references: tuple[_Owner, ...] = ()
    deletion_timestamp: str | None = None


class _Found(Struct, frozen=True):
    metadata: _Meta = _Meta()


class NotMadeError(Exception):
    """What a Gateway needs can't be made: why, for whoever wrote it."""


class _Kept(Struct, frozen=True):
    """What was made of a Gateway, in bytes, and when it is looked at again."""

    gateway: Gateway
    content: bytes
    due_s: float


class GatewayDeployments:
    """Implements Duty."""

    def __init__(self, client: KubeClient, mesh: Mesh, image: Image, clock: Callable[[], float]) -> None:
        self._client = client
        self._mesh = mesh
        self._image = image
        self._clock = clock
        self._kept: dict[ObjectKey, _Kept] = {}
        self._problems: dict[ObjectKey, str] = {}
        self._seen_batches = -1
        self._wanted: dict[ObjectKey, Gateway] = {}

    @property
    def problems(self) -> Mapping[ObjectKey, str]:
        """Why there is nothing that runs a Gateway."""
        return self._problems

    async def round(self) -> None:
        """Once over all Gateways that are due."""
        if self._mesh.batches != self._seen_batches:
            self._seen_batches = self._mesh.batches
            self._wanted = dict(self._gateways())
            for key in self._kept.keys() - self._wanted.keys():
                del self._kept[key]
                self._problems.pop(key, None)
        made = 0
        for key, gateway in self._wanted.items():
            kept, now_s = self._kept.get(key), self._clock()
            if kept is not None and kept.gateway is gateway and kept.due_s > now_s:
                continue
            objects = objects_for(gateway, self._image)
            content = msgspec.json.encode(objects)
            if kept is not None and kept.content == content and kept.due_s > now_s:
                self._kept[key] = _Kept(gateway, content, kept.due_s)
                continue
            try:
                well = await self._make(gateway, objects)
            except APIError as error:
                log.warning("what runs the Gateway %s is not looked at: %s", key, error)
                return
            self._kept[key] = _Kept(gateway, content, now_s + (AGAIN_S if well else RETRY_S))
            made += 1
            if made == A_ROUND:
                return

    def _gateways(self) -> Iterator[tuple[ObjectKey, Gateway]]:
        for key in self._mesh.records:
            item = self._mesh.store.get(key) if key.kind is Kind.GATEWAY else None
            if isinstance(item, Gateway) and is_ours_to_run(item):
                yield key, item

    async def _make(self, gateway: Gateway, objects: tuple[Manifest, ...]) -> bool:
        """Whether all of it is there now; raises APIError without an answer."""
        try:
            for manifest in objects:
                await self._apply(gateway, manifest)
        except NotMadeError as error:
            if self._problems.get(gateway.key) != str(error):
                log.warning("what runs the Gateway %s/%s is not made: %s", gateway.metadata.namespace, gateway.metadata.name, error)
            self._problems[gateway.key] = str(error)
            return False
        self._problems.pop(gateway.key, None)
        return True

    async def _apply(self, gateway: Gateway, manifest: Manifest) -> None:
        kind, meta = manifest["kind"], manifest["metadata"]
        path = _path(manifest)
        try:
            found = await self._look(path)
            if found is not None:
                _check_owned(found, gateway, kind)
                # Not another one under the same name, should this one have gone meanwhile.
                manifest = {**manifest, "metadata": {**meta, "uid": found.uid}}
            await self._client.request("PATCH", path, {"fieldManager": MANAGER}, body=manifest, content_type=APPLY_PATCH)
        except APIError as error:
            # Without an answer there is nothing to tell of the Gateway; the others would get none either.
            if not error.status:
                raise
            raise NotMadeError(_why(error, kind, meta)) from error

    async def _look(self, path: str) -> _Meta | None:
        try:
            return msgspec.json.decode(await self._client.request("GET", path), type=_Found).metadata
        except APIError as error:
            if error.status == 404:
                return None
            raise
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotMadeError("the API server's answer can't be read") from error


def is_ours_to_run(gateway: Gateway) -> bool:
    """One that says where it is reached is run by whoever said that; one without listeners has no ports."""
    if gateway.spec.gateway_class_name not in wire.WAYPOINT_CLASSES | wire.GATEWAY_CLASSES:
        return False
    return bool(gateway.spec.listeners) and not gateway.spec.addresses and not gateway.metadata.deletion_timestamp


def _check_owned(found: _Meta, gateway: Gateway, kind: str) -> None:
    """Raises NotMadeError."""
    if all(owner.uid != gateway.metadata.uid for owner in found.owner_references):
        raise NotMadeError(f"there is a {kind} of its name already, which is not the Gateway's")
    if found.deletion_timestamp:
        raise NotMadeError(f"its {kind} is being deleted")


def _why(error: APIError, kind: str, meta: Mapping[str, Any]) -> str:
    if error.status == 403:
        where = meta["namespace"]
        return f"the controller may make no {kind} in namespace {where} (gatewayNamespaces says where it may): {error.message[:200]}"
    if error.status == 409:
        return f"its {kind} was changed by somebody else: {error.message[:300]}"
    return f"its {kind}: {error}"


def _path(manifest: Manifest) -> str:
    version, meta = manifest["apiVersion"], manifest["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{meta['namespace']}/{_PLURALS[manifest['kind']]}/{meta['name']}"
