"""What runs a Gateway in Kubernetes: the ServiceAccount, Service and Deployment that are made for it, as data.

All three bear the Gateway's name and are owned by it, so that they go with it. The account's name is the identity of the Envoy, as
everywhere; the Envoy runs as nobody in particular, on a file system that it can't write to, with its key in memory.
"""

from typing import Any, Final

from msgspec import Struct

from control.kinds import Gateway
from control.validation.document import Manifest
from meshapi import wire

USER: Final = 65532
ROOTS_CONFIGMAP: Final = "istio-ca-root-cert"
ROOTS_KEY: Final = "root-cert.pem"
TOKEN_LIFE_S: Final = 43_200
DRAIN_S: Final = 25
SERVICE_TYPE: Final = "networking.istio.io/service-type"
_SERVICE_TYPES: Final = ("ClusterIP", "LoadBalancer", "NodePort")
_APP_PROTOCOLS: Final = {"HTTP": "http", "HTTPS": "https", "TLS": "tls", "TCP": "tcp", "HBONE": "hbone"}


class Image(Struct, frozen=True):
    """What is run, and where it finds the controller. `cluster` is what it says that it is of."""

    name: str
    controller: str
    trust_domain: str = wire.DEFAULT_TRUST_DOMAIN
    cluster: str = wire.DEFAULT_CLUSTER
    audience: str = "istio-ca"
    pull_policy: str = "IfNotPresent"


def objects_for(gateway: Gateway, image: Image) -> tuple[Manifest, ...]:
    """In the order in which they are to be made."""
    meta = _meta(gateway)
    account: Manifest = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False}
    service: Manifest = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": _service(gateway)}
    deployment: Manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": _deployment(gateway, image)}
    return account, service, deployment


def is_waypoint(gateway: Gateway) -> bool:
    """By its class."""
    return gateway.spec.gateway_class_name in wire.WAYPOINT_CLASSES


def selector(gateway: Gateway) -> dict[str, str]:
    """The labels by which its pods are told."""
    return {wire.LABEL_GATEWAY_NAME: gateway.metadata.name}


def _meta(gateway: Gateway) -> dict[str, Any]:
    stated = gateway.spec.infrastructure
    owner = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": gateway.metadata.name, "uid": gateway.metadata.uid}
    return {
        "name": gateway.metadata.name,
        "namespace": gateway.metadata.namespace,
        "labels": {**stated.labels, **selector(gateway), "app.kubernetes.io/managed-by": "nodemesh"},
        "annotations": dict(stated.annotations),
        "ownerReferences": [{**owner, "controller": True}],
    }


def _service(gateway: Gateway) -> dict[str, Any]:
    asked = gateway.metadata.annotations.get(SERVICE_TYPE, "")
    usual = "ClusterIP" if is_waypoint(gateway) else "LoadBalancer"
    ports: dict[int, dict[str, Any]] = {}
    for listener in gateway.spec.listeners:
        protocol = _APP_PROTOCOLS.get(listener.protocol, "tcp")
        ports.setdefault(listener.port, {"name": f"{protocol}-{listener.port}", "port": listener.port, "appProtocol": protocol})
    return {
        "type": asked if asked in _SERVICE_TYPES else usual,
        "selector": selector(gateway),
        "ports": [{**one, "protocol": "TCP", "targetPort": number} for number, one in sorted(ports.items())],
        **({"externalTrafficPolicy": "Local"} if not is_waypoint(gateway) and asked != "ClusterIP" else {}),
    }


def _deployment(gateway: Gateway, image: Image) -> dict[str, Any]:
    stated = gateway.spec.infrastructure
    # Its pods take tunnels themselves: an agent that captured them would take their connections for its own.
    labels = {**gateway.metadata.labels, **stated.labels, **selector(gateway), wire.LABEL_DATAPLANE_MODE: "none"}
    pod = {
        "serviceAccountName": gateway.metadata.name,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": DRAIN_S + 10,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            # Ports below 1024, of this pod alone; without it that takes a capability.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "containers": [_container(gateway, image)],
        "volumes": _volumes(image),
    }
    return {
        "selector": {"matchLabels": selector(gateway)},
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": labels, "annotations": dict(stated.annotations)}, "spec": pod},
    }


def _container(gateway: Gateway, image: Image) -> dict[str, Any]:
    meta = gateway.metadata
    return {
        "name": "envoy",
        "image": image.name,
        "imagePullPolicy": image.pull_policy,
        "args": [
            "waypoint" if is_waypoint(gateway) else "gateway",
            "run",
            f"--gateway={meta.namespace}/{meta.name}",
            f"--controller={image.controller}",
            f"--roots=/roots/{ROOTS_KEY}",
            "--token-file=/token/token",
            "--state=/state/key",
            "--run-dir=/state/run",
            f"--trust-domain={image.trust_domain}",
            f"--cluster={image.cluster}",
            "--instance=$(POD_NAME)",
            f"--metrics-listen=$(POD_IP):{wire.PROXY_METRICS_PORT}",
            f"--drain={DRAIN_S}",
        ],
        "env": [_own("POD_NAME", "metadata.name"), _own("POD_IP", "status.podIP")],
        "ports": [{"name": "http-envoy-prom", "containerPort": wire.PROXY_METRICS_PORT}],
        # Not a port that it serves: there may be nothing for one of them, and the others would wait for it.
        "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": wire.PROXY_METRICS_PORT}, "periodSeconds": 2, "timeoutSeconds": 3},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "state", "mountPath": "/state"},
            {"name": "token", "mountPath": "/token", "readOnly": True},
            {"name": "roots", "mountPath": "/roots", "readOnly": True},
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }


def _own(name: str, field: str) -> dict[str, Any]:
    """A variable with what the pod knows of itself."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}}


def _volumes(image: Image) -> list[dict[str, Any]]:
    token = {"serviceAccountToken": {"path": "token", "audience": image.audience, "expirationSeconds": TOKEN_LIFE_S}}
    return [
        {"name": "state", "emptyDir": {"medium": "Memory"}},
        {"name": "token", "projected": {"sources": [token]}},
        {"name": "roots", "configMap": {"name": ROOTS_CONFIGMAP}},
    ]
