"""Installing, looking at and removing what `manifests` says, through the Kubernetes API."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from control.install.manifests import DEFINITION, NAMESPACE, Document, path_of, words
from control.source.kubernetes.definitions import served_versions
from control.source.kubernetes.resources import CUSTOM, DEFINITIONS_PATH, VERSIONS, custom_type
from kubeapi.client import APPLY_PATCH, APIError, KubeClient
from meshapi.wire import ANNOTATION_REDIRECTION

Say = Callable[[str], None]

MANAGER: Final = "meshctl"
AGENT: Final = "nodemesh-agent"
OLDEST: Final = (1, 30)
_POLL_S: Final = 1.0
_PAGE: Final = "500"


class InstallError(Exception):
    """What did not come about, in words, and what to look at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Of a check: whether it is well, and what to do if it isn't."""

    what: str
    ok: bool
    words: str


async def install(client: KubeClient, items: Sequence[Document], say: Say, *, wait_s: float) -> None:
    """Applies everything (server-side, so what others manage stays theirs), then waits until it runs. Raises InstallError, APIError."""
    for item in items:
        await client.request("PATCH", path_of(item), {"fieldManager": MANAGER, "force": "true"}, body=item, content_type=APPLY_PATCH)
        say(f"applied {words(item)}")
    deadline_s = time.monotonic() + wait_s
    for item in items:
        if item["kind"] in {"Deployment", "DaemonSet"}:
            await _until_rolled_out(client, item, say, deadline_s)


async def uninstall(client: KubeClient, items: Sequence[Document], say: Say, *, wait_s: float) -> None:
    """Removes the agents, then everything but the namespace, which has the mesh's root, and the kinds, with which all of theirs would go.

    Raises InstallError, APIError.
    """
    await remove_agents(client, NAMESPACE, say, wait_s=wait_s)
    for item in reversed(items):
        if item["kind"] not in {"Namespace", DEFINITION} and await _delete(client, path_of(item)):
            say(f"deleted {words(item)}")
    say("the mesh's own kinds are still there, and all objects of them")
    say(f"namespace {NAMESPACE} is still there: the root of the mesh is in it, and whatever else somebody keeps there")


async def remove_agents(client: KubeClient, namespace: str, say: Say, *, wait_s: float) -> None:
    """Deletes the DaemonSet ahead of the agents' rights: each agent lets go of its pods as it ends, and this waits until all have.

    Raises InstallError that names the pods which are still captured.
    """
    if await _delete(client, f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{AGENT}"):
        say(f"deleted DaemonSet {namespace}/{AGENT}: the agents let go of their pods")
    deadline_s, before = time.monotonic() + wait_s, -1
    while captured := [pod async for pod in _captured(client)]:
        if len(captured) != before:
            say(f"{len(captured)} pods are still captured")
            before = len(captured)
        if time.monotonic() > deadline_s:
            raise InstallError(f"still captured, and closed: {', '.join(captured[:10])}: install again, so that agents can let them go")
        await asyncio.sleep(_POLL_S)


async def _delete(client: KubeClient, path: str) -> bool:
    """Whether it was there."""
    try:
        await client.request("DELETE", path, {"propagationPolicy": "Background"})
    except APIError as error:
        if error.status == 404:
            return False
        raise
    return True


async def check(client: KubeClient) -> AsyncIterator[Finding]:
    """What an installation needs, and what would stand in its way."""
    version = msgspec.json.decode(await client.request("GET", "/version"))
    have = tuple(int("".join(filter(str.isdigit, version[part])) or 0) for part in ("major", "minor"))
    yield Finding("Kubernetes", have >= OLDEST, f"{version['gitVersion']}; needed is {'.'.join(map(str, OLDEST))} or later")
    mine = await _may_install(client)
    yield Finding("rights", not mine, f"missing: {', '.join(mine)}" if mine else "enough to install")
    others = [name async for name in _other_meshes(client)]
    yield Finding("other meshes", not others, f"{', '.join(others)}: would capture the same pods" if others else "none captures pods here")
    strange = [text async for text in _unreadable_kinds(client)]
    yield Finding(
        "kinds",
        not strange,
        f"{'; '.join(strange)}: a controller that starts waits for a version that it understands"
        if strange
        else "all can be read that are there",
    )
    nodes = msgspec.json.decode(await client.request("GET", "/api/v1/nodes", {"limit": _PAGE}))["items"]
    kernels = sorted({node["status"]["nodeInfo"]["kernelVersion"] for node in nodes if "nodeInfo" in node.get("status", {})})
    yield Finding("nodes", bool(nodes), f"{len(nodes)}, kernels: {', '.join(kernels) or 'not told'}")


async def _unreadable_kinds(client: KubeClient) -> AsyncIterator[str]:
    for name in CUSTOM:
        try:
            versions = served_versions(await client.request("GET", f"{DEFINITIONS_PATH}/{name}"))
        except APIError as error:
            if error.status == 404:
                continue
            raise
        if custom_type(name, versions) is None:
            yield f"{name} is served in {', '.join(versions) or 'no version'}, not in {' or '.join(VERSIONS[name.partition('.')[2]])}"


async def _until_rolled_out(client: KubeClient, item: Document, say: Say, deadline_s: float) -> None:
    last = ""
    while True:
        found = msgspec.json.decode(await client.request("GET", path_of(item)))
        state, done = rollout(found)
        if state != last:
            say(f"{words(item)}: {state}")
            last = state
        if done:
            return
        if time.monotonic() > deadline_s:
            raise InstallError(f"{words(item)} did not come up: {state}; see kubectl describe and kubectl logs --namespace {NAMESPACE}")
        await asyncio.sleep(_POLL_S)


def rollout(found: dict[str, Any]) -> tuple[str, bool]:
    """How far a Deployment or a DaemonSet is, in words, and whether all of it runs as it was applied last."""
    status = found.get("status", {})
    if found["kind"] == "DaemonSet":
        wanted, updated, ready = (status.get(key, 0) for key in ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"))
    else:
        wanted, updated, ready = found["spec"].get("replicas", 1), status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    seen = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
    return f"{min(updated, ready)} of {wanted} ready", seen and updated >= wanted and ready >= wanted


async def _captured(client: KubeClient) -> AsyncIterator[str]:
    query = {"limit": _PAGE}
    while True:
        page = msgspec.json.decode(await client.request("GET", "/api/v1/pods", query))
        for pod in page["items"]:
            meta = pod["metadata"]
            if meta.get("annotations", {}).get(ANNOTATION_REDIRECTION) == "enabled":
                yield f"{meta['namespace']}/{meta['name']} (node {pod['spec'].get('nodeName', '-')})"
        if not (token := page["metadata"].get("continue")):
            return
        query = {"limit": _PAGE, "continue": token}


async def _may_install(client: KubeClient) -> list[str]:
    """What the caller may not do of what an installation does."""
    missing = []
    for group, resource in (
        *(("", "namespaces"), ("", "serviceaccounts"), ("", "services"), ("apps", "daemonsets"), ("apps", "deployments")),
        *(("policy", "poddisruptionbudgets"), ("apiextensions.k8s.io", "customresourcedefinitions")),
        ("rbac.authorization.k8s.io", "clusterroles"),
        *(("rbac.authorization.k8s.io", "clusterrolebindings"), ("admissionregistration.k8s.io", "validatingadmissionpolicies")),
    ):
        asked = {"namespace": NAMESPACE, "verb": "create", "group": group, "resource": resource}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}
        answer = msgspec.json.decode(await client.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body))
        if not answer["status"]["allowed"]:
            missing.append(f"create {resource}")
    return missing


async def _other_meshes(client: KubeClient) -> AsyncIterator[str]:
    found = msgspec.json.decode(await client.request("GET", "/apis/apps/v1/daemonsets", {"limit": _PAGE}))
    for item in found["items"]:
        if item["metadata"]["name"] in {"istio-cni-node", "ztunnel", "linkerd-cni"}:
            yield f"DaemonSet {item['metadata']['namespace']}/{item['metadata']['name']}"
