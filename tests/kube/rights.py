"""The controller's account and rights, as its manifest gives them and no others."""

import secrets
from pathlib import Path

import yaml

from tests.kube.cluster import REPOSITORY, Cluster

RBAC = REPOSITORY / "deploy/daemonset/base/controller-rbac.yaml"
ACCOUNT = "nodemesh-controller"


def install_rights(kube: Cluster, namespace: str) -> None:
    """The account of the controller in `namespace`, with the ClusterRole (and the Role, there) of the manifest and nothing else."""
    kube.service_account(namespace, ACCOUNT)
    for item in yaml.safe_load_all(RBAC.read_text()):
        meta = {"name": f"{item['metadata']['name']}-{namespace}"} | ({"namespace": namespace} if item["kind"] == "Role" else {})
        if item["kind"] in {"ClusterRole", "Role"}:
            kube.admin.apply({**item, "metadata": meta})
            kube.admin.apply(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": f"{item['kind']}Binding",
                    "metadata": meta,
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": item["kind"], "name": meta["name"]},
                    "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
                }
            )


def controller_kubeconfig(kube: Cluster, directory: Path, *, server: str | None = None) -> tuple[Path, str]:
    """A kubeconfig of a controller with its rights in a namespace of its own, and that namespace."""
    namespace = kube.namespace("controller")
    install_rights(kube, namespace)
    path = directory / f"kubeconfig-{secrets.token_hex(3)}"
    return kube.kubeconfig(path, kube.admin.token(namespace, ACCOUNT), server=server), namespace
