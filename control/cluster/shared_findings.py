"""What the Envoys of each replica tell, for all replicas: a ConfigMap with an entry for each, which its replica keeps fresh.

The leader writes status; an Envoy's controller may be another one. An entry that its replica has not freshened for a while, by the
reader's own clock, is of one that is gone.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.kinds import ObjectKey
from control.model.mesh import Mesh
from control.model.told import Told, together
from kubeapi.backoff import Backoff
from kubeapi.client import MERGE_PATCH, APIError, KubeClient

NAME: Final = "nodemesh-findings"
PERIOD_S: Final = 2.0
FRESHEN_S: Final = 15.0
GONE_S: Final = 60.0
MAX_ENTRY_BYTES: Final = 100_000
"""A ConfigMap holds a megabyte: the entries of as many replicas as anybody runs."""
log = logging.getLogger(__name__)


class _Said(Struct, frozen=True, omit_defaults=True):
    object: ObjectKey
    in_vain: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class _Entry(Struct, frozen=True):
    """`beat` differs whenever it is freshened."""

    beat: int
    said: tuple[_Said, ...]


class _ConfigMap(Struct, frozen=True):
    data: dict[str, str] | None = None


class _Seen(Struct, frozen=True):
    text: str
    since_s: float


def encode(told: Told, beat: int) -> str | None:
    """An entry, None for nothing to tell; what is too much for one is left out from the end."""
    keys = sorted(told.in_vain.keys() | told.refused.keys())
    said: list[_Said] = []
    size_bytes = 0
    for key in keys:
        one = _Said(key, told.in_vain.get(key, ()), told.refused.get(key, ()))
        size_bytes += len(msgspec.json.encode(one)) + 1
        if size_bytes > MAX_ENTRY_BYTES:
            break
        said.append(one)
    return msgspec.json.encode(_Entry(beat, tuple(said))).decode() if said else None


def decode(text: str) -> Told:
    """Of an entry; one that can't be read tells nothing."""
    try:
        said = msgspec.json.decode(text, type=_Entry).said
    except msgspec.DecodeError:
        return Told()
    return Told({one.object: one.in_vain for one in said if one.in_vain}, {one.object: one.refused for one in said if one.refused})


class SharedFindings:
    """The ConfigMap of `namespace`; `identity` is this replica's, and no other's."""

    def __init__(self, client: KubeClient, namespace: str, identity: str, mesh: Mesh, monotonic: Callable[[], float]) -> None:
        self._client = client
        self._collection = f"/api/v1/namespaces/{namespace}/configmaps"
        self._identity = identity
        self._mesh = mesh
        self._monotonic = monotonic
        self._beat = 0
        self._written = Told()
        self._written_s = float("-inf")
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(random.random)
        while True:
            try:
                await self.round()
            except APIError as error:
                # Another replica was first to make it.
                if error.status != 409:
                    log.warning("what Envoys tell is not shared with other replicas yet: %s", error)
                await asyncio.sleep(backoff.after_failure())
            else:
                backoff.success()
            await asyncio.sleep(PERIOD_S)

    async def round(self) -> None:
        """Writes what is new here, and takes what others wrote. Raises APIError."""
        own, now_s = Told(dict(self._mesh.in_vain), dict(self._mesh.refused)), self._monotonic()
        stale = own != Told() and now_s - self._written_s >= FRESHEN_S
        found = await self._write(own, now_s) if own != self._written or stale else await self._read()
        if own != Told() and self._identity not in found:
            # Somebody took it for the entry of one that is gone.
            self._written_s = float("-inf")
        self._take(found, now_s)
        gone = [name for name, seen in self._seen.items() if now_s - seen.since_s >= GONE_S]
        if gone:
            await self._change(dict.fromkeys(gone))

    def _take(self, found: Mapping[str, str], now_s: float) -> None:
        others = {name: text for name, text in found.items() if name != self._identity}
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name].text == text else _Seen(text, now_s) for name, text in others.items()
        }
        fresh = (decode(seen.text) for _, seen in sorted(self._seen.items()) if now_s - seen.since_s < GONE_S)
        self._mesh.take_told_elsewhere(together(fresh))

    async def _read(self) -> Mapping[str, str]:
        try:
            return _data(await self._client.request("GET", f"{self._collection}/{NAME}"))
        except APIError as error:
            if error.status == 404:
                return {}
            raise

    async def _write(self, own: Told, now_s: float) -> Mapping[str, str]:
        self._beat += 1
        found = await self._change({self._identity: encode(own, self._beat)})
        self._written, self._written_s = own, now_s
        return found

    async def _change(self, entries: Mapping[str, str | None]) -> Mapping[str, str]:
        """None takes an entry away."""
        try:
            body: dict[str, Any] = {"data": dict(entries)}
            return _data(await self._client.request("PATCH", f"{self._collection}/{NAME}", body=body, content_type=MERGE_PATCH))
        except APIError as error:
            if error.status != 404:
                raise
        made = {name: text for name, text in entries.items() if text is not None}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": made}
        return _data(await self._client.request("POST", self._collection, body=body)) if made else {}


def _data(body: bytes) -> Mapping[str, str]:
    try:
        return msgspec.json.decode(body, type=_ConfigMap).data or {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise APIError(0, "Unreadable", str(error)) from error
