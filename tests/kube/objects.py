"""Objects as a cluster has them: what a user writes, what a scheduler and a kubelet add."""

import base64
import uuid
from collections.abc import Mapping

from tests.kube.admin import Admin, Manifest


def node(name: str, *, address: str = "", labels: dict[str, str] | None = None) -> Manifest:
    status = {"addresses": [{"type": "InternalIP", "address": address}]} if address else {}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels or {}}, "status": status}


def pod(namespace: str, name: str, *, node: str = "", account: str = "default", labels: dict[str, str] | None = None) -> Manifest:
    """One container that is never run. With `node` it is placed there already."""
    spec = {"serviceAccountName": account, "containers": [{"name": "app", "image": "none.invalid/app", "ports": [{"containerPort": 8080}]}]}
    # Without a controller, nobody takes pods off a node; each takes its leave at once.
    spec["terminationGracePeriodSeconds"] = 0
    meta = {"name": name, "namespace": namespace, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec | ({"nodeName": node} if node else {})}


def running(address: str, *more: str) -> Manifest:
    """The status that a kubelet writes when a pod runs and is ready."""
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": one} for one in (address, *more)],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
    }


def run_pod(
    admin: Admin, namespace: str, name: str, address: str, *, node: str, account: str = "default", labels: dict[str, str] | None = None
) -> Manifest:
    """Makes a pod and says that it runs; returns it as the API server has it, with its uid."""
    made = admin.create(pod(namespace, name, node=node, account=account, labels=labels))
    return admin.status({**pod(namespace, name), "status": running(address)}) | {"metadata": made["metadata"]}


def service(namespace: str, name: str, selector: dict[str, str], *, address: str = "", port: int = 80, target_port: int = 8080) -> Manifest:
    """Without an address, the API server gives it one."""
    spec: Manifest = {"selector": selector, "ports": [{"port": port, "targetPort": target_port}]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec | ({"clusterIP": address} if address else {}),
    }


def secret(namespace: str, name: str, data: Mapping[str, bytes]) -> Manifest:
    """With its values as Kubernetes wants them."""
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": encoded}


def pod_key(namespace: str, name: str) -> str:
    """Where etcd has a pod; those of other kinds are alike (`/registry/<plural>/<namespace>/<name>`, services under `services/specs`)."""
    return f"/registry/pods/{namespace}/{name}"


def stored(item: Manifest, uid: str = "") -> Manifest:
    """An object as it must be when it is written into etcd directly: with what the API server adds on creation."""
    meta = {**item["metadata"], "uid": uid or str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {**item, "metadata": meta}
