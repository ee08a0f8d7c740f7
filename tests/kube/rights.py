"""The controller's account and rights, as its manifest gives them and no others."""

import secrets
from pathlib import Path

import yaml

from tests.kube.cluster import REPOSITORY, Cluster

RBAC = REPOSITORY / "deploy/daemonset/base/controller-rbac.yaml"
ACCOUNT = "nodemesh-controller"


CERTIFICATES, DEPLOYMENTS = "nodemesh-gateway-certificates", "nodemesh-gateway-deployments"
"""The roles that are bound only where an operator says that gateways are."""


def install_rights(kube: Cluster, namespace: str) -> None:
    """The account of the controller in `namespace`, with what the manifest binds to it and nothing else."""
    kube.service_account(namespace, ACCOUNT)
    items = list(yaml.safe_load_all(RBAC.read_text()))
    bound = {(item["roleRef"]["kind"], item["roleRef"]["name"]) for item in items if item["kind"].endswith("Binding")}
    for item in items:
        if item["kind"] in {"ClusterRole", "Role"}:
            name = f"{item['metadata']['name']}-{namespace}"
            where = namespace if item["kind"] == "Role" else ""
            kube.admin.apply({**item, "metadata": {"name": name} | ({"namespace": where} if where else {})})
            if (item["kind"], item["metadata"]["name"]) in bound:
                _bind(kube, item["kind"], name, namespace, where)


def let(kube: Cluster, controller: str, role: str, namespace: str) -> None:
    """What the chart's `gatewayNamespaces` does for one: the controller of the namespace `controller` has that role there."""
    _bind(kube, "ClusterRole", f"{role}-{controller}", controller, namespace)


def _bind(kube: Cluster, kind: str, role: str, controller: str, where: str) -> None:
    """In the namespace `where`, or in all."""
    kube.admin.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding" if where else "ClusterRoleBinding",
            "metadata": {"name": role} | ({"namespace": where} if where else {}),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": controller}],
        }
    )


def controller_kubeconfig(kube: Cluster, directory: Path, *, server: str | None = None) -> tuple[Path, str]:
    """A kubeconfig of a controller with its rights in a namespace of its own, and that namespace."""
    namespace = kube.namespace("controller")
    install_rights(kube, namespace)
    path = directory / f"kubeconfig-{secrets.token_hex(3)}"
    return kube.kubeconfig(path, kube.admin.token(namespace, ACCOUNT), server=server), namespace
