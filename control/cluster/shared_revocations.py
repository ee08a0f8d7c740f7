"""Revocations that hold at every replica: a secret that all of them watch, and that each brings its own changes to."""

import asyncio
import base64
import binascii
import logging
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.ca.records import RecordFile
from control.ca.revocations import Revocations, parse_identity
from control.metrics import Metrics
from kubeapi.backoff import Backoff
from kubeapi.client import APIError, KubeClient
from kubeapi.follower import Follower
from kubeapi.watching import Delivery, Watching
from meshapi.spiffe import IdentityError
from meshapi.trust import Revocation

NAME: Final = "nodemesh-revocations"
KEY: Final = "revocations.json"
log = logging.getLogger(__name__)
Times = Mapping[str, int]
"""By identity: what was issued before this second is refused."""


class SharedRevocationsError(Exception):
    """The secret holds no revocations: which identities are revoked can't be told."""


class _Meta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Secret(Struct, frozen=True):
    metadata: _Meta = _Meta()
    data: dict[str, str] | None = None


def merged(base: Times, local: Times, remote: Times) -> Times:
    """What was changed here since `base`, done to `remote`; of two revocations of the same identity the later counts."""
    result = dict(remote)
    for identity in base.keys() - local.keys():
        # Undone here; unless it was revoked anew elsewhere meanwhile.
        if result.get(identity) == base[identity]:
            del result[identity]
    for identity, before_s in local.items():
        if base.get(identity) != before_s:
            result[identity] = max(before_s, result.get(identity, 0))
    return result


class SharedRevocations:
    """The secret of `namespace`."""

    def __init__(self, client: KubeClient, namespace: str, metrics: Metrics) -> None:
        self._client = client
        self._collection = f"/api/v1/namespaces/{namespace}/secrets"
        self._metrics = metrics
        self._remote: Times = {}
        self._version = ""
        self._base: Times = {}
        self._wake = asyncio.Event()

    async def prepare(self, path: Path) -> None:
        """Adds what is revoked already to the records in `path`, before anything is served from them; waits for the API server.

        Raises SharedRevocationsError or RecordsError for what can't be read.
        """
        backoff = Backoff(random.random)
        while True:
            try:
                self._read(await self._client.request("GET", f"{self._collection}/{NAME}"))
                break
            except APIError as error:
                if error.status == 404:
                    break
                log.warning("the mesh's revocations: %s", error)
                await asyncio.sleep(backoff.after_failure())
        file = RecordFile(path, Revocation)
        own = _times(file.load())
        # What only this replica's disk knows, it knows from a life before this one.
        file.store(_records(merged({}, own, self._remote)))
        self._base = self._remote

    async def run(self, revocations: Revocations) -> None:
        """Keeps the secret and `revocations` the same, until cancelled."""
        revocations.on_change(self._wake.set)
        query = {"fieldSelector": f"metadata.name={NAME}"}
        follower = Follower(self._client, self._collection, Watching(random.random), self._learn, self._metrics, query=query)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follower.run(), name="follow revocations")
            tasks.create_task(self._reconcile(revocations), name="share revocations")

    async def _reconcile(self, revocations: Revocations) -> None:
        backoff = Backoff(random.random)
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._share(revocations)
                backoff.success()
            except APIError as error:
                if error.status != 409:
                    log.warning("revocations are not shared with other replicas yet: %s", error)
                await asyncio.sleep(backoff.after_failure())
                self._wake.set()

    async def _share(self, revocations: Revocations) -> None:
        local = _times(revocations.all())
        wanted = merged(self._base, local, self._remote)
        if wanted != self._remote:
            await self._write(wanted)
        self._base = self._remote
        # Somebody may have revoked here while that was written.
        now = _times(revocations.all())
        agreed = merged(local, now, self._remote)
        if agreed != now:
            revocations.take(_records(agreed))

    async def _write(self, wanted: Times) -> None:
        content = base64.b64encode(msgspec.json.encode(_records(wanted))).decode()
        meta = {"name": NAME} | ({"resourceVersion": self._version} if self._version else {})
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": {KEY: content}}
        if self._version:
            answer = await self._client.request("PUT", f"{self._collection}/{NAME}", body=body)
        else:
            answer = await self._client.request("POST", self._collection, body=body)
        self._read(answer)

    def _learn(self, delivery: Delivery) -> None:
        for item in delivery.present:
            if _older(item.version, self._version):
                # Of a time before our own last write: it would undo what was revoked with that.
                continue
            try:
                self._read(item.raw)
            except SharedRevocationsError as error:
                # What was revoked stays revoked.
                log.error("%s", error)  # noqa: TRY400 -- the message says it all
                self._version = item.version
                self._base = {}
        if delivery.gone:
            # Nothing is undone by that: what is known here is written again.
            self._remote, self._version, self._base = {}, "", {}
        self._wake.set()

    def _read(self, raw: bytes) -> None:
        try:
            secret = msgspec.json.decode(raw, type=_Secret)
            content = base64.b64decode((secret.data or {}).get(KEY, ""), validate=True)
            records = msgspec.json.decode(content or b"[]", type=tuple[Revocation, ...])
            for record in records:
                parse_identity(record.identity)
        except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, IdentityError) as error:
            raise SharedRevocationsError(f"the secret {NAME} can't be read: correct it, or remove it") from error
        self._remote = _times(records)
        self._version = secret.metadata.resource_version


def _older(version: str, than: str) -> bool:
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def _times(records: Iterable[Revocation]) -> Times:
    return {record.identity: record.issued_before_s for record in records}


def _records(times: Times) -> tuple[Revocation, ...]:
    return tuple(Revocation(identity, before_s) for identity, before_s in sorted(times.items()))
