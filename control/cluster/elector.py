"""The edge of the election: reads and writes the Lease."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Struct

from control.cluster.election import Election, Lease, Terms, Write
from kubeapi.client import APIError, KubeClient

NAME: Final = "nodemesh-controller"
log = logging.getLogger(__name__)


class _Meta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Spec(Struct, frozen=True, rename="camel"):
    holder_identity: str = ""
    lease_duration_seconds: int = 0
    lease_transitions: int = 0


class _Object(Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()


class Elector:
    """Takes part in the election of `namespace` under the name `identity`, which no other replica has."""

    def __init__(self, client: KubeClient, namespace: str, identity: str, monotonic: Callable[[], float], terms: Terms) -> None:
        self._client = client
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._identity = identity
        self._monotonic = monotonic
        self._terms = terms
        self._election = Election(identity, self._terms)
        self._version = ""
        self._led = False

    @property
    def leading(self) -> bool:
        return self._election.leading(self._monotonic())

    async def run(self) -> None:
        """Until cancelled; then it gives the lease back."""
        try:
            while True:
                await self._round()
                self._tell()
                await asyncio.sleep(self._terms.retry_s)
        finally:
            await self._release()

    async def _round(self) -> None:
        try:
            write = self._election.read(await self._read(), self._monotonic())
            if write is not None:
                await self._write(write)
        except APIError as error:
            log.warning("the lease %s: %s", NAME, error)

    async def _read(self) -> Lease | None:
        try:
            body = await self._client.request("GET", f"{self._collection}/{NAME}", deadline_s=self._terms.retry_s)
        except APIError as error:
            if error.status == 404:
                return None
            raise
        return self._lease(body)

    async def _write(self, write: Write) -> None:
        asked_s = self._monotonic()
        try:
            version = await self._put(write.lease)
        except APIError as error:
            if error.status != 409:
                raise
            self._election.lost()
            return
        self._version = version
        self._election.written(asked_s)

    async def _put(self, lease: Lease) -> str:
        """Creates or replaces the lease; returns its version now."""
        method, path = ("PUT", f"{self._collection}/{NAME}") if lease.version else ("POST", self._collection)
        return self._lease(await self._client.request(method, path, body=self._object(lease), deadline_s=self._terms.retry_s)).version

    async def _release(self) -> None:
        lease = self._election.release()
        if lease is None:
            return
        try:
            await self._put(msgspec.structs.replace(lease, version=self._version))
        except APIError as error:
            log.info("the lease %s is not given back, and ends by itself: %s", NAME, error)

    def _lease(self, body: bytes) -> Lease:
        try:
            found = msgspec.json.decode(body, type=_Object)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise APIError(0, "Unreadable", str(error)) from error
        spec = found.spec
        return Lease(spec.holder_identity, spec.lease_duration_seconds, spec.lease_transitions, found.metadata.resource_version)

    def _object(self, lease: Lease) -> dict[str, object]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        meta = {"name": NAME} | ({"resourceVersion": lease.version} if lease.version else {})
        spec = {
            "holderIdentity": lease.holder,
            "leaseDurationSeconds": lease.lease_s,
            "leaseTransitions": lease.transitions,
            "renewTime": now,
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}

    def _tell(self) -> None:
        if self.leading != self._led:
            self._led = self.leading
            log.info("%s %s", self._identity, "leads" if self._led else "does not lead any more")
