"""The Kubernetes manifests of the demo's mesh, as plain dictionaries, made from what the topology has."""

from collections.abc import Mapping, Sequence
from typing import Any

from demo.topology import Pod

Manifest = dict[str, Any]


def namespace(name: str, *, enrolled: bool) -> Manifest:
    """A Namespace, enrolled in the mesh by Istio's label or not."""
    labels = {"istio.io/dataplane-mode": "ambient"} if enrolled else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def node(name: str, *, zone: str, region: str = "here") -> Manifest:
    """A Node with its place."""
    labels = {"topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": zone}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def service_account(name: str, *, namespace: str = "default") -> Manifest:
    """A ServiceAccount: the identity of the pods that run as it."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def pod(
    pod: Pod, *, service_account: str, app: str, namespace: str = "default", ready: bool = True, labels: Mapping[str, str] | None = None
) -> Manifest:
    """A running Pod with the addresses that the topology gave it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": namespace, "labels": {"app": app, **(labels or {})}},
        "spec": {"nodeName": pod.node, "serviceAccountName": service_account, "containers": [_container(app)]},
        "status": {
            "phase": "Running",
            "podIP": str(pod.ipv4),
            "podIPs": [{"ip": str(pod.ipv4)}, {"ip": str(pod.ipv6)}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def _container(app: str) -> Manifest:
    ports = [{"name": "http", "containerPort": 8080}, {"name": "tcp-echo", "containerPort": 9000}]
    return {"name": app, "image": "example/app", "ports": ports}


def service(name: str, *, app: str, vips: Sequence[str], namespace: str = "default", spec: Mapping[str, Any] | None = None) -> Manifest:
    """A Service with HTTP on 80 and the echo on 9000, by port name."""
    ports = [
        {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"},
        {"name": "tcp-echo", "port": 9000, "targetPort": "tcp-echo"},
    ]
    addresses = {"clusterIP": vips[0], "clusterIPs": list(vips)} if vips else {"clusterIP": "None", "clusterIPs": ["None"]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": app}, "ports": ports, "ipFamilyPolicy": "PreferDualStack", **addresses, **(spec or {})},
    }


def peer_authentication(name: str, mode: str, *, namespace: str, app: str | None = None) -> Manifest:
    """A PeerAuthentication of a namespace, or of the workloads of one app."""
    spec: dict[str, Any] = {"mtls": {"mode": mode}}
    if app is not None:
        spec["selector"] = {"matchLabels": {"app": app}}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": metadata, "spec": spec}


def authorization_policy(
    name: str, action: str, *, app: str | None = None, principals: Sequence[str] = (), ports: Sequence[str] = (), namespace: str = "default"
) -> Manifest:
    """An AuthorizationPolicy with one rule."""
    rule: dict[str, Any] = {}
    if principals:
        rule["from"] = [{"source": {"principals": list(principals)}}]
    if ports:
        rule["to"] = [{"operation": {"ports": list(ports)}}]
    spec: dict[str, Any] = {"action": action, "rules": [rule]}
    if app is not None:
        spec["selector"] = {"matchLabels": {"app": app}}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}
