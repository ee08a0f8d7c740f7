"""Following a real API server: what comes, what goes, and what stays while it is away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodeagent.pod_watch import PodWatch
from nodeagent.redirection import Marking
from nodeagent.runtime.pods import PodBook, Standing
from nodeagent.turn import Turn
from tests.kube import objects
from tests.kube.cluster import Cluster as Kube
from tests.kube.relay import Relay
from tests.nodeagent.waiting import until

MODE = "istio.io/dataplane-mode"
NODE = "watched-node"


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    name = kube.namespace("watch")
    yield name
    for pod in kube.admin.list("v1", "Pod", name):
        kube.admin.delete("v1", "Pod", pod["metadata"]["name"], name)


class Watched:
    def __init__(self, kubeconfig: Path, daemonset: tuple[str, str] | None) -> None:
        self.book, self.turn = PodBook(), Turn()
        self.marks: list[Marking] = []
        self.watch = PodWatch(
            node=NODE,
            kubeconfig=kubeconfig,
            daemonset=daemonset,
            book=self.book,
            changed=self.turn.tell,
            markings=lambda: self.marks,
            turn=self.turn,
        )

    def names(self, namespace: str) -> set[str]:
        return {pod.metadata.name for pod in self.book.pods() if pod.metadata.namespace == namespace}


@asynccontextmanager
async def watching(kubeconfig: Path, daemonset: tuple[str, str] | None = None) -> AsyncIterator[Watched]:
    watched = Watched(kubeconfig, daemonset)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watched.watch.run())
        yield watched
        task.cancel()


@asynccontextmanager
async def relayed(kube: Kube, path: Path) -> AsyncIterator[tuple[Relay, Path]]:
    relay = Relay(kube.port)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    async with server:
        yield relay, kube.kubeconfig(path / "kubeconfig", kube.credentials.admin_token, server=relay.server)
        await relay.end()


def patch(kube: Kube, namespace: str, mode: str | None) -> None:
    kube.admin.merge({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {MODE: mode}}})


async def test_pods_of_this_node_come_and_go_also_while_the_server_is_away(kube: Kube, namespace: str, tmp_path: Path) -> None:
    first = objects.run_pod(kube.admin, namespace, "first", "10.0.0.7", node=NODE)["metadata"]["uid"]
    objects.run_pod(kube.admin, namespace, "elsewhere", "10.0.0.8", node="another")
    async with relayed(kube, tmp_path) as (relay, kubeconfig), watching(kubeconfig) as watched:
        await until(lambda: watched.book.synced, deadline_s=20)
        assert watched.names(namespace) == {"first"}
        assert watched.book.standing(namespace, "first", first) is Standing.OUTSIDE
        await asyncio.to_thread(patch, kube, namespace, "ambient")
        await until(lambda: watched.book.standing(namespace, "first", first) is Standing.INSIDE, deadline_s=20)
        relay.refusing = True
        relay.cut()
        await until(lambda: bool(watched.watch.problem), deadline_s=20)
        await asyncio.to_thread(objects.run_pod, kube.admin, namespace, "second", "10.0.0.9", node=NODE)
        await asyncio.to_thread(kube.admin.delete, "v1", "Pod", "first", namespace)
        await watched.watch.refresh(namespace)
        assert watched.book.standing(namespace, "first", first) is Standing.INSIDE, "what is known stays"
        relay.refusing = False
        await until(lambda: watched.names(namespace) == {"second"}, deadline_s=30)
        await until(lambda: not watched.watch.problem, deadline_s=20)


async def test_a_namespace_is_read_ahead_of_its_watch(kube: Kube, namespace: str, tmp_path: Path) -> None:
    uid = objects.run_pod(kube.admin, namespace, "web", "10.0.0.7", node=NODE)["metadata"]["uid"]
    async with relayed(kube, tmp_path) as (relay, kubeconfig), watching(kubeconfig) as watched:
        await until(lambda: watched.book.standing(namespace, "web", uid) is Standing.OUTSIDE, deadline_s=20)
        # A new connection gets through, what is open says nothing more.
        relay.stall()
        await asyncio.to_thread(patch, kube, namespace, "ambient")
        relay.passing.set()
        await watched.watch.refresh(namespace)
        assert watched.book.standing(namespace, "web", uid) is Standing.INSIDE


async def test_marks_are_written_once_and_for_the_right_pod_only(kube: Kube, namespace: str, tmp_path: Path) -> None:
    uid = objects.run_pod(kube.admin, namespace, "web", "10.0.0.7", node=NODE)["metadata"]["uid"]
    kubeconfig = kube.kubeconfig(tmp_path / "kubeconfig", kube.credentials.admin_token)

    def annotation() -> str | None:
        found = kube.admin.get("v1", "Pod", "web", namespace)["metadata"].get("annotations") or {}
        return found.get("ambient.istio.io/redirection")

    async with watching(kubeconfig) as watched:
        await until(lambda: watched.book.synced, deadline_s=20)
        wrong = "00000000-0000-0000-0000-000000000000"
        watched.marks = [Marking(namespace, "web", wrong, enabled=True), Marking(namespace, "gone", uid, enabled=True)]
        watched.turn.tell()
        await until(lambda: watched.book.synced, deadline_s=20)
        watched.marks = [Marking(namespace, "web", uid, enabled=True)]
        watched.turn.tell()
        await until(lambda: annotation() == "enabled", deadline_s=20)
        watched.marks = [Marking(namespace, "web", wrong, enabled=False)]
        watched.turn.tell()
        watched.marks = [Marking(namespace, "web", wrong, enabled=False), Marking(namespace, "web", uid, enabled=True)]
        watched.turn.tell()
        await asyncio.to_thread(annotation)
        assert annotation() == "enabled"


async def test_an_agent_that_finds_no_api_server_says_so_and_tries_again(kube: Kube, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    async with watching(path) as watched:
        await until(lambda: "No such file" in watched.watch.problem, deadline_s=20)
        assert watched.book.standing("a", "b", "c") is Standing.UNKNOWN
        kube.kubeconfig(path, kube.credentials.admin_token)
        await until(lambda: watched.book.synced and not watched.watch.problem, deadline_s=20)


def daemonset(namespace: str) -> dict[str, Any]:
    labels = {"app": "agent"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "agent", "image": "none.invalid/agent"}]}}
    meta = {"name": "agent", "namespace": namespace}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": meta,
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


async def test_only_a_daemonset_that_was_there_can_be_gone(kube: Kube, namespace: str, tmp_path: Path) -> None:
    kubeconfig = kube.kubeconfig(tmp_path / "kubeconfig", kube.credentials.admin_token)
    async with watching(kubeconfig, (namespace, "agent")) as watched:
        await until(lambda: watched.book.synced, deadline_s=20)
        assert not await watched.watch.uninstalled(), "a wrong name takes no node out of the mesh"
        kube.admin.create(daemonset(namespace))
        watched.turn.tell()
        await until(lambda: watched.watch._seen)
        assert not await watched.watch.uninstalled()
        kube.admin.delete("apps/v1", "DaemonSet", "agent", namespace)
        assert await watched.watch.uninstalled()


async def test_rights_that_are_gone_take_no_node_out_of_the_mesh(kube: Kube, namespace: str, tmp_path: Path) -> None:
    kube.admin.create(daemonset(namespace))
    nobody = kube.kubeconfig(tmp_path / "nobody", kube.admin.token(namespace, "default"))
    async with watching(nobody, (namespace, "agent")) as watched:
        await until(lambda: "403" in watched.watch.problem, deadline_s=20)
        kube.admin.delete("apps/v1", "DaemonSet", "agent", namespace)
        assert not await watched.watch.uninstalled()
