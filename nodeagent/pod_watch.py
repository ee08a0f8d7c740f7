"""Watches this node's pods and all namespaces at the API server, and writes on the pods which of them are captured.

Apart from its users, since an HTTP client takes long to import.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, TypeVar
from urllib.parse import quote

import msgspec

from kubeapi.access import Access, AccessError, from_kubeconfig, in_cluster
from kubeapi.client import MERGE_PATCH, APIError, KubeClient
from kubeapi.follower import Follower, Unobserved
from kubeapi.watching import Delivery, Watching
from nodeagent.redirection import Marking
from nodeagent.runtime.pods import Namespace, Pod, PodBook
from nodeagent.turn import Turn

log = logging.getLogger(__name__)
PODS: Final = "/api/v1/pods"
NAMESPACES: Final = "/api/v1/namespaces"
_RETRY_S: Final = 2.0
_T = TypeVar("_T")
_OF_ONE_POD: Final = frozenset({404, 409, 422})
"""What these say of one marking says nothing of the others."""
_PRESENCE_S: Final = 5.0


class _PresenceMeta(msgspec.Struct, rename="camel"):
    deletion_timestamp: str = ""


class _Presence(msgspec.Struct):
    metadata: _PresenceMeta


_presences: Final = msgspec.json.Decoder(_Presence)
_pods: Final = msgspec.json.Decoder(Pod)
_namespaces: Final = msgspec.json.Decoder(Namespace)


class PodWatch:
    """Keeps `book` as the API server says, and calls `changed` after. `markings` is asked at each turn for what is to be written."""

    def __init__(
        self,
        *,
        node: str,
        kubeconfig: Path | None,
        daemonset: tuple[str, str] | None = None,
        book: PodBook,
        changed: Callable[[], None],
        markings: Callable[[], list[Marking]],
        turn: Turn,
    ) -> None:
        self._node = node
        self._kubeconfig = kubeconfig
        self._daemonset = daemonset
        self._book = book
        self._changed = changed
        self._markings = markings
        self._turn = turn
        self._followers: tuple[Follower, ...] = ()
        self._client: KubeClient | None = None
        self._refused = ""
        self._seen = False
        """The DaemonSet was there once: a name that was never right must not look like one that is gone."""

    @property
    def problem(self) -> str:
        """Why the API server can't be read now, in words; empty if it can."""
        return self._refused or next((follower.complaint for follower in self._followers if follower.complaint), "")

    async def run(self) -> NoReturn:
        """Until cancelled."""
        access = await self._access()
        async with KubeClient(access) as client:
            self._client = client
            self._followers = (self._pod_follower(client), self._namespace_follower(client))
            async with asyncio.TaskGroup() as tasks:
                for follower, name in zip(self._followers, ("pods", "namespaces"), strict=True):
                    tasks.create_task(follower.run(), name=f"follow {name}")
                tasks.create_task(self._mark(), name="mark pods")
        raise AssertionError("only cancellation ends it")

    async def refresh(self, namespace: str) -> None:
        """Reads one namespace ahead of its watch. Without an answer, what the watch has told stays."""
        if self._client is None:
            return
        try:
            body = await self._client.request("GET", f"{NAMESPACES}/{quote(namespace, safe='')}")
        except APIError as error:
            log.warning("Kubernetes: namespace %s is not looked at again: %s", namespace, error)
            return
        if (found := _decoded(_namespaces, body)) is not None:
            self._book.put_namespace(found)
            self._changed()

    async def uninstalled(self) -> bool:
        """Whether what runs the agents is gone, or going. Where that can't be said, it is not: captures stay, and are taken up again."""
        present = await self._presence()
        if present is False and not self._seen:
            log.warning("the DaemonSet of the agents was never there: is --daemonset right? What is captured stays so")
            return False
        log.info("the DaemonSet of the agents: %s", {True: "is there", False: "is gone", None: "not known"}[present])
        return present is False

    async def _presence(self) -> bool | None:
        """None: it can't be said, or nobody told which it is."""
        if self._client is None or self._daemonset is None:
            return None
        namespace, name = (quote(part, safe="") for part in self._daemonset)
        try:
            path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
            body = await self._client.request("GET", path, deadline_s=_PRESENCE_S)
        except APIError as error:
            # That rights are gone says nothing: they may have been taken by mistake, which must open no pod.
            return False if error.status == 404 else None
        found = _decoded(_presences, body)
        return None if found is None else not found.metadata.deletion_timestamp

    async def _access(self) -> Access:
        while True:
            try:
                access = await asyncio.to_thread(_read_access, self._kubeconfig)
            except AccessError as error:
                if str(error) != self._refused:
                    log.warning("Kubernetes: %s", error)
                self._refused = str(error)
                await asyncio.sleep(_RETRY_S)
            else:
                self._refused = ""
                return access

    def _pod_follower(self, client: KubeClient) -> Follower:
        watching = Watching(random.random)

        def deliver(delivery: Delivery) -> None:
            for namespace, name in delivery.gone:
                self._book.drop_pod(namespace, name)
            for item in delivery.present:
                if (pod := _decoded(_pods, item.raw)) is not None:
                    self._book.put_pod(pod)
            self._delivered(Pod, listed=watching.listed)

        query = {"fieldSelector": f"spec.nodeName={self._node}"}
        return Follower(client, PODS, watching, deliver, Unobserved(), query=query)

    def _namespace_follower(self, client: KubeClient) -> Follower:
        watching = Watching(random.random)

        def deliver(delivery: Delivery) -> None:
            for _, name in delivery.gone:
                self._book.drop_namespace(name)
            for item in delivery.present:
                if (namespace := _decoded(_namespaces, item.raw)) is not None:
                    self._book.put_namespace(namespace)
            self._delivered(Namespace, listed=watching.listed)

        return Follower(client, NAMESPACES, watching, deliver, Unobserved())

    def _delivered(self, kind: type[Pod | Namespace], *, listed: bool) -> None:
        if listed:
            self._book.listed.add(kind)
        self._changed()

    async def mark(self) -> str:
        """Writes what is not written yet; returns what hinders, in words."""
        refused, client = "", self._client
        if client is None or not self._book.synced:
            return ""
        for marking in self._markings():
            try:
                await client.request("PATCH", marking.path, body=marking.body, content_type=MERGE_PATCH)
            except APIError as error:
                # A pod that is gone, or another by now, is told of by the watch.
                refused = refused if error.status in {404, 409} else str(error)
                if error.status not in _OF_ONE_POD:
                    break
        return refused

    async def _mark(self) -> NoReturn:
        """Level-triggered: what is not written yet, or was overwritten, is found again at the next turn."""
        told = ""
        while True:
            self._seen = self._seen or await self._presence() is True
            refused = await self.mark()
            if refused and refused != told:
                log.warning("pods are not marked as captured: %s", refused)
            told = refused
            try:
                async with asyncio.timeout(_RETRY_S if refused else None):
                    await self._turn.wait()
            except TimeoutError:
                continue


def _read_access(kubeconfig: Path | None) -> Access:
    return in_cluster() if kubeconfig is None else from_kubeconfig(kubeconfig)


def _decoded(decoder: msgspec.json.Decoder[_T], raw: bytes) -> _T | None:
    """None for what is none: the API server serves no such thing, and what was known before stays."""
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        log.warning("Kubernetes: an object that can't be read: %s", error)
        return None
