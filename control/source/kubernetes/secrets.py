"""Certificates of gateways from Kubernetes: each Secret that a connected gateway needs is watched by its name, and no other is read.

So are ConfigMaps with the roots of clients.
"""

import asyncio
import base64
import binascii
import logging
import random
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from control.metrics import Metrics
from kubeapi.client import KubeClient
from kubeapi.follower import Follower
from kubeapi.watching import Delivery, Item, Name, Watching

PERIOD_S: Final = 1.0
"""How often it is looked which Secrets are needed."""
Put = Callable[[Mapping[Name, Mapping[str, bytes] | None]], None]
Complain = Callable[[Mapping[Name, str]], None]
log = logging.getLogger(__name__)


class _Secret(Struct, frozen=True):
    data: dict[str, str] | None = None


class _ConfigMap(Struct, frozen=True):
    data: dict[str, str] | None = None


class Kept(StrEnum):
    """In what they are kept, as the API server calls it."""

    SECRETS = "secrets"
    CONFIG_MAPS = "configmaps"


_decoder: Final = msgspec.json.Decoder(_Secret)
_map_decoder: Final = msgspec.json.Decoder(_ConfigMap)


class ClusterSecrets:
    """The watches, one for each Secret. A controller that may not read one is told so by the API server, again and again, and goes on."""

    def __init__(self, client: KubeClient, metrics: Metrics, kept: Kept = Kept.SECRETS) -> None:
        self._kept = kept
        self._client = client
        self._metrics = metrics
        self._followers: dict[Name, Follower] = {}
        self._watches: dict[Name, asyncio.Task[None]] = {}

    @property
    def complaints(self) -> dict[Name, str]:
        """Why some can't be read."""
        return {name: one.complaint for name, one in self._followers.items() if one.complaint}

    async def run(self, wanted: Callable[[], frozenset[Name]], put: Put, complain: Complain) -> None:
        """Until cancelled; `put` gets what is new, changed or gone (None), `complain` which can't be read, and why."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = wanted()
                for name in self._watches.keys() - now:
                    del self._followers[name]
                    self._watches.pop(name).cancel()
                    put({name: None})
                for name in now - self._watches.keys():
                    follower = self._followers[name] = self._follower(name, put)
                    self._watches[name] = tasks.create_task(follower.run(), name=f"follow {self._kept} {'/'.join(name)}")
                complain(self.complaints)
                await asyncio.sleep(PERIOD_S)

    def _follower(self, name: Name, put: Put) -> Follower:
        def deliver(delivery: Delivery) -> None:
            changed: dict[Name, Mapping[str, bytes] | None] = dict.fromkeys((one for one in delivery.gone if one == name), None)
            read = content if self._kept is Kept.SECRETS else map_content
            changed |= {item.key: read(item) for item in delivery.present if item.key == name}
            if changed:
                put(changed)

        path = f"/api/v1/namespaces/{name[0]}/{self._kept}"
        query = {"fieldSelector": f"metadata.name={name[1]}"}
        return Follower(self._client, path, Watching(random.random), deliver, self._metrics, query=query)


def content(item: Item) -> Mapping[str, bytes] | None:
    """What a Secret holds; None for one that can't be read, of which nothing is told but its name."""
    try:
        data = _decoder.decode(item.raw).data or {}
        return {key: base64.b64decode(value, validate=True) for key, value in data.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError):
        log.warning("the Secret %s/%s is not what a Secret is", item.namespace, item.name)
        return None


def map_content(item: Item) -> Mapping[str, bytes] | None:
    """What a ConfigMap holds, likewise."""
    try:
        data = _map_decoder.decode(item.raw).data or {}
        return {key: value.encode() for key, value in data.items()}
    except (msgspec.DecodeError, UnicodeError):
        log.warning("the ConfigMap %s/%s is not what a ConfigMap is", item.namespace, item.name)
        return None
