"""A node whose agent follows a real API server and installs the real CNI plugin, beside a node with a static list."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from demo import manifests
from demo.cluster import Cluster
from demo.topology import Pod, Topology
from tests.e2e.forwarder import Forwarder
from tests.e2e.mesh import Mesh
from tests.kube import objects
from tests.kube.cluster import Cluster as Kube
from tests.nodeagent.cni.plugin import Result, call
from tests.nodeagent.pod_sandbox import Sandbox, Sandboxes, sandboxes

REPOSITORY = Path(__file__).resolve().parents[2]
MODE = "istio.io/dataplane-mode"
AGENT_NAMESPACE, AGENT = "nodemesh-system", "nodemesh-agent"
BRIDGE = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "bridge": "cni0"}]}


@dataclass
class Site:
    """`node` has the pods of `namespace`, which exist in Kubernetes and for the controller; `far` has one pod, `api`."""

    mesh: Mesh
    kube: Kube
    node: str
    namespace: str
    boxes: Sandboxes
    directory: Path
    api: Pod
    way: Forwarder
    """To the API server."""
    pods: dict[str, Pod] = field(default_factory=dict)
    running: dict[str, Sandbox] = field(default_factory=dict)

    # ---- Kubernetes

    def label(self, mode: str | None) -> None:
        """Of the namespace, for whoever reads the API server and for the controller."""
        self.kube.admin.merge(manifest("Namespace", self.namespace) | {"metadata": {"name": self.namespace, "labels": {MODE: mode}}})
        self.mesh.cluster.apply("namespace", [manifests.namespace(self.namespace, enrolled=mode == "ambient")])

    def declare(self, name: str, *, account: str = "default", labels: dict[str, str] | None = None, namespace: str = "") -> str:
        """A pod that is to start on the node; returns its uid."""
        place = namespace or self.namespace
        made = self.kube.admin.create(objects.pod(place, name, node=self.node, account=account, labels=labels))
        return str(made["metadata"]["uid"])

    def run_status(self, name: str, pod: Pod) -> None:
        """What a kubelet says of a pod that runs."""
        self.kube.admin.status({**objects.pod(self.namespace, name), "status": objects.running(str(pod.ipv4), str(pod.ipv6))})

    def annotation(self, name: str) -> str | None:
        found = self.kube.admin.get("v1", "Pod", name, self.namespace)["metadata"].get("annotations") or {}
        return found.get("ambient.istio.io/redirection")

    # ---- what a container runtime does

    def plug(self, name: str, *, account: str = "default") -> Pod:
        """The network that a pod gets from the plugin before ours; the controller is told of the pod, too."""
        pod = self.mesh.topology.add_pod(self.node, name)
        self.pods[name] = pod
        self.tell_controller(account=account)
        return pod

    def run(self, name: str) -> None:
        """A pod that runs already, in a namespace that no plugin of ours has heard of; the controller is not told."""
        pod = self.mesh.topology.add_pod(self.node, name)
        self.pods[name] = pod
        self.running[name] = self.boxes.add(name=pod.namespace, uid=self.declare(name))
        self.run_status(name, pod)

    def tell_controller(self, *, account: str = "default") -> None:
        documents = [
            manifests.pod(pod, service_account=account, app=name, namespace=self.namespace) for name, pod in sorted(self.pods.items())
        ]
        self.mesh.cluster.apply("pods", documents)

    def forget(self, name: str) -> None:
        """The pod's end, as runtime and kubelet bring it about."""
        if (sandbox := self.running.pop(name, None)) is not None:
            sandbox.kill()
        self.mesh.topology.remove_pod(self.pods.pop(name))
        self.kube.admin.delete("v1", "Pod", name, self.namespace)
        self.tell_controller()

    def cni(self, command: str, name: str, uid: str, *, deadline_s: int = 20, previous: Any = None, **more: str) -> Result:
        """Calls the plugin that the agent installed, with the configuration that it wrote, for a pod."""
        pod = self.pods[name]
        entry = self.chain()[-1]
        result = {"cniVersion": "1.0.0", "ips": [{"address": f"{pod.ipv4}/24"}, {"address": f"{pod.ipv6}/64"}]}
        config = {"cniVersion": "1.1.0", "name": "net", **entry, "deadline_s": deadline_s, "prevResult": previous or result}
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
        return asyncio.run(call(command, config, netns=pod.netns_path, args=args, CNI_CONTAINERID=f"c-{uid}", **more))

    def chain(self) -> list[dict[str, Any]]:
        return list(json.loads((self.directory / "net.d/10-net.conflist").read_text())["plugins"])

    # ---- the agent

    def workloads(self) -> dict[str, dict[str, Any]]:
        return {entry["name"]: entry for entry in self.mesh.admin(self.node, "/workloads")}

    def captured(self, name: str) -> bool:
        return bool(self.workloads().get(name, {}).get("ready"))

    def start_agent(self, *, join: bool = False) -> None:
        kubeconfig, places = self.directory / "kubeconfig", self.directory
        self.mesh.cluster.start_agent(
            self.node,
            f"--runtime=kubernetes:{kubeconfig}",
            f"--cni-bin-dir={places / 'bin'}",
            f"--cni-conf-dir={places / 'net.d'}",
            "--cni-exempt-namespace=kube-system",
            f"--daemonset={AGENT_NAMESPACE}/{AGENT}",
            join=join,
        )

    def stop_agent(self) -> None:
        self.mesh.cluster.agents[self.node].stop()


def manifest(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def daemonset() -> dict[str, Any]:
    """What stands for the agents' installation: nobody makes pods of it here."""
    # As installed: other tests install into the same namespace of the same server.
    labels = {"app.kubernetes.io/name": AGENT}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "agent", "image": "none.invalid/agent"}]}}
    meta = {"name": AGENT, "namespace": AGENT_NAMESPACE}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": meta,
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def agent_token(kube: Kube, node: str) -> str:
    """Of the agent's pod on a node, with exactly the rights that the agent is installed with."""
    kube.admin.apply(manifest("Namespace", AGENT_NAMESPACE))
    account = manifest("ServiceAccount", AGENT)
    kube.admin.apply({**account, "metadata": {**account["metadata"], "namespace": AGENT_NAMESPACE}})
    for document in yaml.safe_load_all((REPOSITORY / "deploy/daemonset/base/agent-rbac.yaml").read_text()):
        kube.admin.apply(document)
    kube.admin.apply(daemonset())
    pod = kube.admin.create(objects.pod(AGENT_NAMESPACE, f"agent-{node}", node=node, account=AGENT))
    return kube.admin.token(AGENT_NAMESPACE, AGENT, pod=pod)


@contextmanager
def site(kube: Kube, directory: Path) -> Iterator[Site]:
    """Everything runs; no pod but `api` is there yet."""
    with ExitStack() as end:
        topology = end.enter_context(Topology())
        cluster = end.enter_context(Cluster(topology))
        boxes = end.enter_context(sandboxes())
        node = f"k{secrets.token_hex(2)}"
        for one in (node, "far"):
            topology.add_node(one)
        topology.add_host("outside")
        api = topology.add_pod("far", "api")
        namespace = kube.namespace("mesh")
        cluster.apply("namespace", [manifests.namespace(namespace, enrolled=False)])
        cluster.apply("default", [manifests.namespace("default", enrolled=True), manifests.namespace("istio-system", enrolled=False)])
        nodes = [manifests.node(node, zone="a"), manifests.node("far", zone="b")]
        accounts = [manifests.service_account("default", namespace=namespace), manifests.service_account("api")]
        cluster.apply("mesh", [*nodes, *accounts, manifests.pod(api, service_account="api", app="api")])
        forwarder = end.enter_context(Forwarder(topology.hosts[node].namespace, kube.port))
        kube.kubeconfig(directory / "kubeconfig", agent_token(kube, node), server=f"https://127.0.0.1:{forwarder.port}")
        (directory / "bin").mkdir()
        (directory / "net.d").mkdir()
        (directory / "net.d/10-net.conflist").write_text(json.dumps(BRIDGE))
        mesh = Mesh(cluster, {"api": api})
        made = Site(mesh, kube, node, namespace, boxes, directory, api, forwarder)
        cluster.start_app(api)
        cluster.start_controller()
        cluster.start_agent("far")
        made.start_agent(join=True)
        cluster.enrol(api, service_account="api")
        yield made
