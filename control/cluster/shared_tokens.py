"""Join tokens that every replica takes, and together take once: a secret that is changed only in the version that was looked at."""

import asyncio
import base64
import binascii
import logging
import random
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.ca.refusal import UnavailableError
from control.ca.token_records import Change, Records, TokenRecord
from control.metrics import Metrics
from kubeapi.client import APIError, KubeClient
from kubeapi.follower import Follower
from kubeapi.watching import Delivery, Watching
from meshapi.spiffe import IdentityError, check_segment

NAME: Final = "nodemesh-join-tokens"
KEY: Final = "join-tokens.json"
TRIES: Final = 16
"""More replicas than there are could not be first each time."""
log = logging.getLogger(__name__)


class _Meta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Secret(Struct, frozen=True):
    metadata: _Meta = _Meta()
    data: dict[str, str] | None = None


class UnreadableError(Exception):
    """The secret holds no records of tokens."""


class SharedTokens:
    """Implements TokenStore: the secret of `namespace`. Deleting it revokes all tokens, and one that can't be read holds none."""

    # A secret holds a megabyte.
    limit: Final = 2_500

    def __init__(self, client: KubeClient, namespace: str, metrics: Metrics) -> None:
        self._client = client
        self._collection = f"/api/v1/namespaces/{namespace}/secrets"
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._version = ""
        self.records: Records = {}

    async def follow(self) -> None:
        """Keeps up with what the secret says, until cancelled."""
        query = {"fieldSelector": f"metadata.name={NAME}"}
        await Follower(self._client, self._collection, Watching(random.random), self._learn, self._metrics, query=query).run()

    async def change(self, change: Change) -> None:
        """See `TokenStore`. A write whose answer is lost counts as one that failed: a token may be used up by that, never used twice."""
        async with self._turn:
            for _ in range(TRIES):
                try:
                    await self._fetch()
                    await self._write(change(self.records))
                except APIError as error:
                    # Somebody else was first.
                    if error.status in {404, 409}:
                        continue
                    raise UnavailableError("token-store", f"the secret {NAME}: {error}") from error
                except UnreadableError as error:
                    raise UnavailableError("token-store", str(error)) from error
                return
            raise UnavailableError("token-store", f"the secret {NAME} changes all the time")

    async def _fetch(self) -> None:
        try:
            self._read(await self._client.request("GET", f"{self._collection}/{NAME}"))
        except APIError as error:
            if error.status != 404:
                raise
            self.records, self._version = {}, ""

    async def _write(self, wanted: Records) -> None:
        content = base64.b64encode(msgspec.json.encode(tuple(wanted.values()))).decode()
        meta = {"name": NAME} | ({"resourceVersion": self._version} if self._version else {})
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": {KEY: content}}
        method, path = ("PUT", f"{self._collection}/{NAME}") if self._version else ("POST", self._collection)
        self._read(await self._client.request(method, path, body=body))

    def _learn(self, delivery: Delivery) -> None:
        for item in delivery.present:
            if _older(item.version, self._version):
                continue
            try:
                self._read(item.raw)
            except UnreadableError as error:
                log.error("%s: no token is taken until it is corrected, or removed", error)  # noqa: TRY400 -- the message says it all
        if delivery.gone:
            self.records, self._version = {}, ""

    def _read(self, raw: bytes) -> None:
        """Raises UnreadableError, after which no token is known."""
        self.records = {}
        try:
            secret = msgspec.json.decode(raw, type=_Secret)
            self._version = secret.metadata.resource_version
            content = base64.b64decode((secret.data or {}).get(KEY, ""), validate=True)
            found = msgspec.json.decode(content or b"[]", type=tuple[TokenRecord, ...])
            for record in found:
                _check_holder(record)
        except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, IdentityError) as error:
            raise UnreadableError(f"the secret {NAME} can't be read") from error
        self.records = {record.id: record for record in found}


def _check_holder(record: TokenRecord) -> None:
    """Raises IdentityError for one that is for nobody who could be, or for two."""
    if not record.gateway:
        check_segment(record.node)
        return
    namespace, _, name = record.gateway.partition("/")
    check_segment(namespace)
    check_segment(name)
    if record.node:
        raise IdentityError(f"a token for the gateway {record.gateway[:200]} and a node")


def _older(version: str, than: str) -> bool:
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
