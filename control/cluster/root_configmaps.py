"""The mesh's roots in every namespace, as the ConfigMap that Istio's workloads look for, and kept as they must be."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.metrics import Metrics
from kubeapi.client import JSON, MERGE_PATCH, APIError, KubeClient
from kubeapi.follower import Follower
from kubeapi.watching import Delivery, Watching

NAME: Final = "istio-ca-root-cert"
KEY: Final = "root-cert.pem"
ALL_PATH: Final = "/api/v1/configmaps"
SELECTOR: Final = {"fieldSelector": f"metadata.name={NAME}"}
"""Its name alone: the controller's rights are for no other ConfigMap."""
AT_ONCE: Final = 4
log = logging.getLogger(__name__)


class _ConfigMap(Struct, frozen=True):
    data: dict[str, str] | None = None


class Plan(Struct, frozen=True):
    """The namespaces that have none, and those whose one is not right."""

    create: tuple[str, ...]
    correct: tuple[str, ...]


def plan(namespaces: Collection[str], held: Mapping[str, str], roots: str) -> Plan:
    """`held`: what the ConfigMap of each namespace says."""
    create = tuple(sorted(name for name in namespaces if name not in held))
    return Plan(create, tuple(sorted(name for name in namespaces if name in held and held[name] != roots)))


class RootConfigMaps:
    """Implements Duty. `namespaces` gives those that are there and stay, `roots` the PEM to publish."""

    def __init__(self, client: KubeClient, namespaces: Callable[[], Collection[str]], roots: Callable[[], str], metrics: Metrics) -> None:
        self._client = client
        self._namespaces = namespaces
        self._roots = roots
        self._held: dict[str, str] = {}
        self._watching = Watching(random.random)
        self._follower = Follower(client, ALL_PATH, self._watching, self._learn, metrics, query=SELECTOR)

    async def follow(self) -> None:
        """Keeps up with what the ConfigMaps say, until cancelled."""
        await self._follower.run()

    async def round(self) -> None:
        """Puts right what is not."""
        if not self._watching.listed:
            return
        roots = self._roots()
        todo = plan(self._namespaces(), self._held, roots)
        turns = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for namespace in todo.create:
                body = _body(roots) | {"apiVersion": "v1", "kind": "ConfigMap"}
                body["metadata"] = {"name": NAME, "labels": {"istio.io/config": "true"}}
                tasks.create_task(self._write("POST", namespace, body, turns), name=f"roots in {namespace}")
            for namespace in todo.correct:
                tasks.create_task(self._write("PATCH", namespace, _body(roots), turns), name=f"roots in {namespace}")

    async def _write(self, method: str, namespace: str, body: dict[str, Any], turns: asyncio.Semaphore) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps" + (f"/{NAME}" if method == "PATCH" else "")
        async with turns:
            try:
                await self._client.request(method, path, body=body, content_type=MERGE_PATCH if method == "PATCH" else JSON)
            except APIError as error:
                # A namespace on its way out takes nothing new (403), or is gone (404); or somebody was quicker (409).
                if error.status not in {403, 404, 409}:
                    log.warning("the roots are not in namespace %s: %s", namespace, error)

    def _learn(self, delivery: Delivery) -> None:
        for namespace, _ in delivery.gone:
            self._held.pop(namespace, None)
        for item in delivery.present:
            try:
                data = msgspec.json.decode(item.raw, type=_ConfigMap).data or {}
            except (msgspec.DecodeError, UnicodeDecodeError):
                data = {}
            self._held[item.namespace] = data.get(KEY, "")


def _body(roots: str) -> dict[str, Any]:
    return {"data": {KEY: roots}}
