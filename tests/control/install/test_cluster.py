"""Installing into a real API server, and out of it again. Kubelets and controllers are the test: it writes the status that they would."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from control.install import cluster as installation
from control.install import manifests
from control.install.cluster import InstallError, rollout
from control.install.manifests import NAMESPACE, Choices
from kubeapi.access import from_kubeconfig
from kubeapi.client import KubeClient
from meshapi.wire import ANNOTATION_REDIRECTION
from tests.kube.admin import APIError
from tests.kube.cluster import Cluster
from tests.kube.objects import run_pod

ITEMS = manifests.documents(Choices())


@pytest.fixture(scope="module")
def kube() -> Iterator[Cluster]:
    """One of this module's own: what is installed here has fixed names, and is taken away again."""
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
async def client(kube: Cluster, tmp_path: Path) -> AsyncIterator[KubeClient]:
    path = kube.kubeconfig(tmp_path / "kubeconfig", kube.credentials.admin_token)
    async with KubeClient(from_kubeconfig(path)) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_runs(kube: Cluster) -> Iterator[None]:
    yield
    for kind, name in (("DaemonSet", "nodemesh-agent"), ("Deployment", "nodemesh-controller")):
        with suppress(APIError):
            kube.admin.delete("apps/v1", kind, name, NAMESPACE)


def roll_out(kube: Cluster, kind: str, name: str) -> None:
    """As its controller does."""
    found = kube.admin.get("apps/v1", kind, name, NAMESPACE)
    counts = ("replicas", "updatedReplicas", "availableReplicas", "readyReplicas")
    if kind == "DaemonSet":
        counts = (
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberReady",
            "numberMisscheduled",
        )
    status: dict[str, Any] = dict.fromkeys(counts, 2) | {"observedGeneration": found["metadata"]["generation"]}
    kube.admin.status(
        {**{key: found[key] for key in ("apiVersion", "kind")}, "metadata": {"name": name, "namespace": NAMESPACE}, "status": status}
    )


async def test_installing_ends_when_everything_runs_and_may_be_repeated(kube: Cluster, client: KubeClient) -> None:
    said: list[str] = []
    installing = asyncio.ensure_future(installation.install(client, ITEMS, said.append, wait_s=30))
    async with asyncio.timeout(20):
        while not any("DaemonSet" in line and "ready" in line for line in said):  # noqa: ASYNC110 - said by another task
            await asyncio.sleep(0.02)
    assert not installing.done()
    for kind, name in (("DaemonSet", "nodemesh-agent"), ("Deployment", "nodemesh-controller")):
        roll_out(kube, kind, name)
    await installing
    assert "DaemonSet nodemesh-system/nodemesh-agent: 2 of 2 ready" in said
    await installation.install(client, ITEMS, said.append, wait_s=1)


async def test_an_installation_that_does_not_come_up_says_what_is_missing(client: KubeClient) -> None:
    with pytest.raises(InstallError, match=r"nodemesh-\w+ did not come up: 0 of"):
        await installation.install(client, ITEMS, lambda _: None, wait_s=0)


async def test_uninstalling_waits_until_every_pod_is_let_go(kube: Cluster, client: KubeClient) -> None:
    with pytest.raises(InstallError):
        await installation.install(client, ITEMS, lambda _: None, wait_s=0)
    namespace = kube.namespace("captured")
    pod = run_pod(kube.admin, namespace, "a", "10.9.9.9", node="n-install")
    name = {"name": "a", "namespace": namespace}
    kube.admin.merge({"apiVersion": "v1", "kind": "Pod", "metadata": {**name, "annotations": {ANNOTATION_REDIRECTION: "enabled"}}})
    with pytest.raises(InstallError, match=rf"still captured, and closed: .*{namespace}/a \(node n-install\)"):
        await installation.uninstall(client, ITEMS, lambda _: None, wait_s=0)
    with pytest.raises(APIError, match="404"):
        kube.admin.get("apps/v1", "DaemonSet", "nodemesh-agent", NAMESPACE)
    assert kube.admin.get("rbac.authorization.k8s.io/v1", "Role", "nodemesh-agent", NAMESPACE), "while agents end, they may ask"
    kube.admin.merge({"apiVersion": "v1", "kind": "Pod", "metadata": {**name, "annotations": {ANNOTATION_REDIRECTION: None}}})
    assert pod["metadata"]["uid"]
    await installation.uninstall(client, ITEMS, lambda _: None, wait_s=10)
    with pytest.raises(APIError, match="404"):
        kube.admin.get("apps/v1", "Deployment", "nodemesh-controller", NAMESPACE)
    assert "deletionTimestamp" not in kube.admin.get("v1", "Namespace", NAMESPACE)["metadata"]


async def test_a_check_names_what_stands_in_the_way(kube: Cluster, client: KubeClient) -> None:
    found = {finding.what: finding async for finding in installation.check(client)}
    assert found["Kubernetes"].ok
    assert found["rights"].ok
    assert found["other meshes"].ok
    namespace = kube.namespace("istio")
    labels = {"app": "ztunnel"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": pod}
    kube.admin.create({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "ztunnel", "namespace": namespace}, "spec": spec})
    try:
        found = {finding.what: finding async for finding in installation.check(client)}
        assert not found["other meshes"].ok
        assert f"DaemonSet {namespace}/ztunnel" in found["other meshes"].words
    finally:
        kube.admin.delete("apps/v1", "DaemonSet", "ztunnel", namespace)


async def test_a_kind_in_versions_that_nobody_understands_is_named(kube: Cluster, client: KubeClient) -> None:
    """A controller would not start beside it: its objects may protect something."""
    name = "workloadentries.networking.istio.io"
    found = {finding.what: finding async for finding in installation.check(client)}
    assert found["kinds"].ok, "one that is not there is not missed"
    kube.install_crd(name)
    found = {finding.what: finding async for finding in installation.check(client)}
    assert found["kinds"].ok
    definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}}
    versions = kube.admin.get(definition["apiVersion"], definition["kind"], name)["spec"]["versions"]
    hidden = [{**one, "storage": False, "served": False} for one in versions]
    kube.admin.merge({**definition, "spec": {"versions": [{**versions[0], "name": "v9", "storage": True, "served": True}, *hidden]}})
    found = {finding.what: finding async for finding in installation.check(client)}
    assert not found["kinds"].ok
    assert f"{name} is served in v9, not in v1 or v1beta1 or v1alpha3" in found["kinds"].words


async def test_a_caller_without_rights_is_told_which_are_missing(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace("nobody")
    path = kube.kubeconfig(tmp_path / "nobody", kube.admin.token(namespace, "default"))
    async with KubeClient(from_kubeconfig(path)) as client:
        found = [finding async for finding in _until_refused(client)]
    assert not found[-1].ok
    assert "create daemonsets" in found[-1].words


async def _until_refused(client: KubeClient) -> AsyncIterator[installation.Finding]:
    async for finding in installation.check(client):
        yield finding
        if finding.what == "rights":
            return


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, ("0 of 2 ready", False)),
        ({"observedGeneration": 3, "updatedReplicas": 2, "availableReplicas": 1}, ("1 of 2 ready", False)),
        ({"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2}, ("2 of 2 ready", False)),
        ({"observedGeneration": 3, "updatedReplicas": 1, "availableReplicas": 2}, ("1 of 2 ready", False)),
        ({"observedGeneration": 3, "updatedReplicas": 2, "availableReplicas": 2}, ("2 of 2 ready", True)),
    ],
)
def test_what_is_rolled_out(status: dict[str, int], expected: tuple[str, bool]) -> None:
    assert rollout({"kind": "Deployment", "metadata": {"generation": 3}, "spec": {"replicas": 2}, "status": status}) == expected
